"""What a kind of answer knows: how a stream's events become the bytes of one client's answer."""

from typing import Protocol

from gateway_sse.problems import Problem
from tokenstream_client import Delta, Finished, Started


class Encoder(Protocol):
    """Made for one answer, of which it may keep what it needs. No I/O.

    Calls come in the stream's order: `started` once, `delta` and `finished` as they come, then one
    of `failed`, `moved` and nothing, then `end`.
    """

    content_type: str
    keepalive: bytes
    """What is sent while nothing else is."""

    def started(self, event: Started) -> bytes:
        """Encode the stream's beginning."""

    def delta(self, event: Delta) -> bytes:
        """Encode some tokens; nothing at all if there is nothing to say of them."""

    def finished(self, event: Finished) -> bytes:
        """Encode a choice's end."""

    def failed(self, problem: Problem) -> bytes | None:
        """Encode a failure; None: it has no way to say it, and the answer is broken off."""

    def moved(self) -> bytes | None:
        """Encode that the client should come back for the rest, to another replica; None: it has
        no way to.
        """

    def end(self) -> bytes:
        """Encode what follows the last event, whatever that was, but not `moved`."""
