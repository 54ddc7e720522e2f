"""What all dialects have in common.

A dialect makes the requests' bytes before the load and reads the answers' after it; neither is
measured. Protobuf answers are checked token by token, server-sent events by their text: the known
tokens are whole characters, so their texts joined are the answer's text.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.known_tokens import KnownTokens
from bench.wire import Record, Wire

MODEL_NAME = "simulated"  # by which a request names what is served, where it must


@dataclass(frozen=True, slots=True)
class Workload:
    """The same for every server.

    `max_delay_ms`: in requests that can say it; None leaves it out, so the server decides.
    `connections`: of gRPC clients; HTTP/1.1 has one for each stream.
    """

    streams: int
    tokens: int
    prompt_tokens: int
    connections: int = 1
    max_delay_ms: int | None = None
    known: KnownTokens = field(default_factory=KnownTokens)

    @classmethod
    def told(cls, fields: dict[str, Any]) -> "Workload":
        """Make it of what `asdict` and JSON left."""
        return cls(**fields | {"known": KnownTokens(**fields["known"])})


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer: the times of its messages that carried tokens, and what is wrong with it.

    Where many answers share a message, each one's part of it counts as a message of its own.
    """

    times: Sequence[float]
    wrong: str | None


@dataclass(frozen=True, slots=True)
class Brought:
    """What a load brought. `frames`: number of messages on the wire that carried tokens."""

    readings: Sequence[Reading]
    frames: int


class Dialect(Protocol):
    """How to speak to one kind of server."""

    def wire(self, address: str, work: Workload) -> Wire:
        """The client for it."""

    def requests(self, work: Workload, prompts: list[list[int]], names: list[str]) -> list[bytes]:
        """The requests' bytes. `names`: each unique within the server's life."""

    def read(self, records: list[Record], answers: list[list[int]]) -> Brought:
        """Read a record for each request, and hold it against the tokens that should have come."""


class CallEach(ABC):
    """A dialect whose requests have a call or a connection each."""

    def requests(self, work: Workload, prompts: list[list[int]], names: list[str]) -> list[bytes]:
        """See `Dialect`."""
        return [self.request(work, p, name) for p, name in zip(prompts, names, strict=True)]

    def read(self, records: list[Record], answers: list[list[int]]) -> Brought:
        """See `Dialect`."""
        readings = [self.read_one(r, a) for r, a in zip(records, answers, strict=True)]
        return Brought(readings, sum(len(reading.times) for reading in readings))

    @abstractmethod
    def request(self, work: Workload, prompt: list[int], name: str) -> bytes:
        """Return a request's bytes."""

    @abstractmethod
    def read_one(self, record: Record, answer: list[int]) -> Reading:
        """Read a record and hold it against the tokens that should have come."""
