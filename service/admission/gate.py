"""The door: how many streams there may be at once, and whether any are taken now.

Every admitted request holds a ticket from before it is rendered until its stream has ended,
whatever ended it. States of the gate: CLOSED (loading) → OPEN → STOPPING; only OPEN admits.

Bound: `limit` tickets. Full: `Overloaded` with the time after which a place should be free.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto

from service.errors import EngineLoading, Overloaded, ServiceError, ServiceStopping

MIN_RETRY_AFTER_S = 0.1
MAX_RETRY_AFTER_S = 30.0
_SMOOTHING = 0.1  # weight of the newest stream in the mean length of streams


class GateState(Enum):
    """Whether the gate admits."""

    CLOSED = auto()
    OPEN = auto()
    STOPPING = auto()


def retry_after_s(limit: int, mean_stream_s: float | None, places: int = 1) -> float:
    """Seconds until `places` of `limit` running streams should have ended.

    Streams that end independently, each after `mean_stream_s` seconds in the mean, free a place
    every `mean_stream_s / limit` seconds (Little's law). One second while none has ended yet.
    """
    if mean_stream_s is None:
        return 1.0
    return min(max(places * mean_stream_s / limit, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)


@dataclass(slots=True)
class Ticket:
    """A place. `streamed`: its stream began, so its length tells how long places are taken."""

    streamed: bool = False


class Gate:
    """Hands out tickets. `clock`: monotonic seconds. Everything runs on one event loop."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._held = 0
        self._state = GateState.CLOSED
        self._stopped_because: type[ServiceError] = ServiceStopping
        self._mean_stream_s: float | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def held(self) -> int:
        """Tickets that are out."""
        return self._held

    @property
    def limit(self) -> int:
        """Most tickets that can be out."""
        return self._limit

    def open(self) -> None:
        """Admit from now on, unless the gate is stopping already."""
        if self._state is GateState.CLOSED:
            self._state = GateState.OPEN

    def stop(self, because: type[ServiceError] = ServiceStopping) -> None:
        """Admit no more, for good. `because`: what whoever comes is told."""
        self._state = GateState.STOPPING
        self._stopped_because = because

    async def until_empty(self) -> None:
        """Wait until no ticket is out."""
        await self._empty.wait()

    def check_open(self) -> None:
        """Raise `EngineLoading`, or what `stop` was given, unless the gate is open."""
        if self._state is GateState.CLOSED:
            raise EngineLoading
        if self._state is GateState.STOPPING:
            raise self._stopped_because

    def check_room(self, places: int) -> None:
        """Raise `Overloaded` unless so many tickets can be had at once."""
        missing = self._held + places - self._limit
        if missing > 0:
            wait_s = retry_after_s(self._limit, self._mean_stream_s, missing)
            raise Overloaded(self._limit, wait_s, places)

    @contextmanager
    def admitted(self) -> Iterator[Ticket]:
        """Hold a ticket inside the block. Raises what `check_open` raises, and `Overloaded`."""
        self.check_open()
        if self._held >= self._limit:
            raise Overloaded(self._limit, retry_after_s(self._limit, self._mean_stream_s))
        self._held += 1
        self._empty.clear()
        ticket = Ticket()
        since = self._clock()
        try:
            yield ticket
        finally:
            self._held -= 1
            if ticket.streamed:
                lasted = self._clock() - since
                mean = self._mean_stream_s
                self._mean_stream_s = (
                    lasted if mean is None else mean + _SMOOTHING * (lasted - mean)
                )
            if self._held == 0:
                self._empty.set()
