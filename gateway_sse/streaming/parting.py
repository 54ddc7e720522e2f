"""What becomes of a stream whose client has gone: a decision of the request's, and of the settings.

A closed tab, a dropped connection and a proxy that gave up look alike from here. So a stream
lingers, decoding no further than its window, for as long as a client that is still there takes to
come back (`RECONNECT_MS` and a round trip), and then it is ended. A connection that breaks without
a word is not seen as closed; there the newer reader takes the stream over.
"""

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from gateway_sse.bridge import Bridge
from gateway_sse.streaming.ended import ended
from gateway_sse.streaming.open_streams import OpenStream
from gateway_sse.streaming.outcomes import Outcome


@dataclass(frozen=True, slots=True)
class Parting:
    """`linger_s`: how long it waits, parked, for being resumed before it is ended. `detach`: it is
    not ended, but stays on the service for its time to live. One that its client cannot name ends
    in any case: there is no id to come back with before the start was sent.
    """

    linger_s: float = 0.0
    detach: bool = False


END_AT_ONCE: Final = Parting()


def parting_of(on_disconnect: Literal["end", "detach"] | None, linger_s: float) -> Parting:
    """Return what a request wants; `linger_s` where it does not say."""
    if on_disconnect is None:
        return Parting(linger_s=linger_s)
    return Parting(detach=on_disconnect == "detach")


class Parted(OpenStream, Protocol):
    """An answer that has come to its end, here."""

    outcome: Outcome

    @property
    def can_be_resumed(self) -> bool:
        """Whether its client knows its id: it was told, or brought it along."""


def part(bridge: Bridge, opened: Parted, parting: Parting) -> None:
    """Count an answer's end, and end its stream, let it linger, or let go of it."""
    stream = opened.stream
    bridge.streams.remove(opened)
    ended(bridge, stream, opened.outcome)
    if stream.ended:
        stream.cancel()
    elif parting.detach and opened.can_be_resumed:
        stream.detach()
    elif opened.outcome is Outcome.LEFT and opened.can_be_resumed and parting.linger_s > 0:
        bridge.streams.linger(stream, parting.linger_s)
    else:
        stream.cancel()
