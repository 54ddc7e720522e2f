"""Which connection a request takes: that of new requests, or one of a replica that stops.

A replica that stops takes nothing new, and goes on with what it has for minutes. The connection to
it lasts as long, so new requests would be refused there although another replica is ready behind
the same name. Rules:

1. A request that is refused because the replica stops begins again at once, on a new connection,
   and so do those after it. What runs goes on where it is.
2. A stream that is asked for by its id may live on any replica that a connection leads to: those
   that stop are asked first, the newest last.
3. The old connection is closed when nothing runs on it and the replica has closed its side: until
   then its streams can be read on.
4. A new connection may lead to the same replica: there is only one, or the name has not followed
   yet. So there is no other within `MOVE_EVERY_S`; until then a refusal is what it was before.

Bound: `MOST_STOPPING` connections to replicas that stop.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Final
from weakref import WeakKeyDictionary

from tokenstream_client.answer import Answer
from tokenstream_client.connection import Connection
from tokenstream_client.errors import TokenstreamError

MOVE_EVERY_S: Final = 5.0
MOST_STOPPING: Final = 4

_STOPPING: Final = "SERVICE_STOPPING"
_LOOK_EVERY_S: Final = 1.0


class Connections:
    """Carries answers as a `Session` does, each on the connection that it belongs on."""

    def __init__(self, connect: Callable[["Connections"], Connection]) -> None:
        """`connect` makes a connection of its own. Needs a running loop."""
        self._connect = connect
        self._loop = asyncio.get_running_loop()
        self._stopping: list[Connection] = []
        self._moved_at: float | None = None
        self._unasked = WeakKeyDictionary[Answer, list[Connection]]()
        self._looking: asyncio.TimerHandle | None = None
        self._closings = set[asyncio.Task[None]]()
        self._closed = False
        self.current = connect(self)
        """What new requests take."""

    def __iter__(self) -> Iterator[Connection]:
        """All of them, the current one first."""
        return iter((self.current, *self._stopping))

    def place_of(self, answer: Answer) -> Connection:
        """Return where to begin an answer, or to read it on."""
        if answer.is_asked_for_by_id and self._stopping:
            unasked = self._unasked.setdefault(answer, list(self._stopping))
            for place in unasked:
                if place in self._stopping:
                    return place
        return self.current

    def elsewhere(self, place: Connection, answer: Answer, error: TokenstreamError) -> bool:
        """Tell whether an answer that was refused before its start is to begin again at once, at
        its `place_of` then.
        """
        if self.moves_from(place, error):
            return True
        unasked = self._unasked.get(answer, ())
        if error.code == "NOT_FOUND" and place in unasked:
            self._unasked[answer] = [other for other in unasked if other is not place]
            return True
        return False

    def moves_from(self, place: Connection, error: TokenstreamError) -> bool:
        """Tell whether what was refused at a place is to be asked again at the `current` one."""
        if self._closed or error.reason != _STOPPING:
            return False
        return place is not self.current or self._moves()

    # What a session does.

    def add(self, answer: Answer) -> None:
        """See `Session.add`."""
        session = self.place_of(answer).session
        assert session is not None
        session.add(answer)

    def leave(self, answer: Answer) -> None:
        """See `Session.leave`."""
        session = self._carrier(answer).session
        assert session is not None
        session.leave(answer)

    def stop(self, answer: Answer) -> None:
        """See `Session.stop`."""
        session = self._carrier(answer).session
        assert session is not None
        session.stop(answer)

    def grant(self, answer: Answer, limit: int) -> None:
        """See `Session.grant`."""
        session = self._carrier(answer).session
        assert session is not None
        session.grant(answer, limit)

    async def end_sessions(self) -> None:
        """End all sessions; calls still work."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*(place.end_session() for place in self))

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(place.close() for place in self), *self._closings)

    def _carrier(self, answer: Answer) -> Connection:
        for place in self._stopping:
            if place.carries(answer):
                return place
        return self.current

    def _moves(self) -> bool:
        """Lead new requests over another connection, if it is time for one."""
        now = self._loop.time()
        if self._moved_at is not None and now - self._moved_at < MOVE_EVERY_S:
            return False
        if len(self._stopping) >= MOST_STOPPING:
            idle = next((place for place in self._stopping if not place.is_busy), None)
            if idle is None:
                return False
            self._drop(idle)
        self._moved_at = now
        self._stopping.append(self.current)
        self.current = self._connect(self)
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_EVERY_S, self._look)
        return True

    def _look(self) -> None:
        """Close what is not in use any more."""
        for place in tuple(self._stopping):
            if not (place.is_busy or place.may_be_asked):
                self._drop(place)
        again = self._stopping and not self._closed
        self._looking = self._loop.call_later(_LOOK_EVERY_S, self._look) if again else None

    def _drop(self, place: Connection) -> None:
        self._stopping.remove(place)
        closing = self._loop.create_task(place.close())
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
