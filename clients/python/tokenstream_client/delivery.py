"""One answer's way to its reader: what carries it, what wakes the reader, what times it out."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from tokenstream_client.answer import Answer
from tokenstream_client.errors import DeadlineExceeded, TokenstreamError
from tokenstream_client.events import Event
from tokenstream_client.own_call import OwnCall

# The service's own word on a deadline has usage and cause, so it gets the time to arrive.
_DEADLINE_SLACK_S: Final = 1.0


class Carrier(Protocol):
    """What carries many answers over sessions; see `Session`."""

    def add(self, answer: Answer) -> None:
        """Carry an answer."""

    def leave(self, answer: Answer) -> None:
        """Let go of it."""

    def stop(self, answer: Answer) -> None:
        """Ask for its end."""

    def grant(self, answer: Answer, limit: int) -> None:
        """Let more of it come."""


class Delivery:
    """Brings an answer to one reader, by the session or by a call of its own."""

    def __init__(
        self,
        answer: Answer,
        session: Carrier | None,
        own_call: Callable[[Answer], OwnCall],
    ) -> None:
        """`own_call` opens a call, where there is no session or it cannot carry the answer."""
        self.answer = answer
        self.loop = asyncio.get_running_loop()
        self._session = session
        self._own_call = own_call
        self._call: OwnCall | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._notified: Callable[[], None] | None = None
        self._advancing: asyncio.Task[None] | None = None
        self._room: asyncio.Event | None = None
        answer.changed = self._changed
        if answer.terms.deadline is not None:
            at = answer.terms.deadline + _DEADLINE_SLACK_S
            self._timer = self.loop.call_at(at, self._expire)
        if session is not None:
            session.add(answer)
        else:
            self._call = own_call(answer)

    async def more(self) -> None:
        """Wait until there may be something new to take."""
        if self._call is None and self.answer.needs_call:
            self._call = self._own_call(self.answer)
        if self._call is not None:
            await self._call.advance(self._pause)
        else:
            await self._pause(None)

    def notify(self, callback: Callable[[], None]) -> None:
        """Have somebody told of every change, instead of waiting in `more`."""
        self._notified = callback
        self._changed()

    def take(self) -> Event | None:
        """Return the next event; see `Answer.take`."""
        event = self.answer.take()
        if self._room is not None and not self.answer.has_events:
            self._room.set()
        return event

    def take_ready(self) -> tuple[Event, ...]:
        """Return all that is there; see `Answer.take_ready`."""
        events = self.answer.take_ready()
        if self._room is not None:
            self._room.set()
        return events

    def consume(self, tokens: int) -> None:
        """Note that the reader has read so many tokens more."""
        limit = self.answer.consume(tokens)
        if limit is not None and self._session is not None and self._call is None:
            self._session.grant(self.answer, limit)

    async def stop(self) -> None:
        """Ask for the answer's end; the reader gets what was decoded and a Finished."""
        if self.answer.ended:
            return
        if self._call is not None:
            await self._call.stop()
        elif self._session is not None:
            self._session.stop(self.answer)

    def leave(self, error: TokenstreamError | None = None) -> None:
        """The reader goes: drop what waits, and let the service know."""
        answer = self.answer
        if not answer.leave(error):
            return
        if self._advancing is not None:
            self._advancing.cancel()
        if self._call is not None:
            self._call.leave()
        elif self._session is not None:
            self._session.leave(answer)

    def _expire(self) -> None:
        self.leave(DeadlineExceeded("the timeout passed without an end"))

    def _changed(self) -> None:
        if self.answer.ended and self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._notified is not None:
            if self._advancing is None and (self._call is not None or self.answer.needs_call):
                self._advancing = self.loop.create_task(self._advance())
            self._notified()

    async def _advance(self) -> None:
        """Move a call of its own for a reader that does not: one message at a time waits."""
        room = self._room = asyncio.Event()
        while not self.answer.ended:
            room.clear()
            if self.answer.has_events:
                await room.wait()
            else:
                await self.more()

    async def _pause(self, seconds: float | None) -> None:
        if self._waiter is not None:
            raise RuntimeError("a stream can be read by one reader only")
        waiter = self._waiter = self.loop.create_future()
        timer = None if seconds is None else self.loop.call_later(seconds, self._changed)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
