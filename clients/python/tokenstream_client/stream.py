"""One answer as a caller of asyncio reads it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Final, Self

from tokenstream_client.delivery import Delivery
from tokenstream_client.errors import TokenstreamError
from tokenstream_client.events import Delta, Event
from tokenstream_client.reading import Reading

_MOST_EVENTS_AT_ONCE: Final = 256


class AsyncStream(Reading):
    """One answer while it is being generated. Iterate over it once, or over its `text()`.

    It has begun already, and it is ended on the service by whatever ends the reading: leaving the
    ``async with`` block or the loop, `cancel()`, a cancelled task, dropping the object. Only with
    ``on_disconnect="detach"`` it goes on there.

    What waits here for a reader that pauses is at most ``ClientOptions.window_tokens`` tokens and
    three events more; the service sends no more until it reads on. With several choices that holds
    for each of them.
    """

    def __init__(self, delivery: Delivery) -> None:
        """Not to be made by hand: `AsyncClient.generate` and `resume` return it."""
        super().__init__(delivery.answer.next_token_index)
        self._delivery = delivery

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        """Yield the stream's events as they come. Raises TokenstreamError."""
        delivery, answer = self._delivery, self._delivery.answer
        try:
            while True:
                event = answer.take()
                if event is None:
                    if answer.ended:
                        return
                    await delivery.more()
                    continue
                self._note(event)
                if type(event) is Delta:
                    delivery.consume(len(event.token_ids))
                yield event
        finally:
            delivery.leave()

    async def text(self) -> AsyncGenerator[str, None]:
        """Yield only the answer's text, piece by piece, none empty. Raises TokenstreamError.

        The texts of several choices come as they do, mixed: to tell them apart, read the events.
        """
        async with aclosing(aiter(self)) as events:
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text

    async def stop(self) -> None:
        """Ask the service to end the answer now. Read on: what was decoded still comes, then a
        `Finished` with reason "cancelled", or another if that was quicker.
        """
        await self._delivery.stop()

    def cancel(self) -> None:
        """Close the stream from this side. A reader that waits gets `Cancelled`."""
        self._delivery.leave()

    def close_with(self, error: TokenstreamError) -> None:
        """Close the stream, as `cancel` does; a reader gets `error`."""
        self._delivery.leave(error)

    async def aclose(self) -> None:
        """Close the stream, as `cancel` does."""
        self.cancel()

    async def take_batch(self, read: int = 0) -> list[Event]:
        """Wait for events and return what is there, at most 256 events, and no more once they
        have a quarter of the window's tokens; none at the end.

        For crossing to other threads cheaply. What is returned does not count as read before it
        is said to be: by `read`, tokens of earlier batches, or by `note_read`.
        """
        delivery, answer = self._delivery, self._delivery.answer
        self.note_read(read)
        while (event := answer.take()) is None:
            if answer.ended:
                return []
            await delivery.more()
        window = answer.terms.window
        most = _MOST_EVENTS_AT_ONCE if window is None else max(1, window // 4)
        batch = [event]
        tokens = len(event.token_ids) if type(event) is Delta else 0
        while answer.has_events and tokens < most and len(batch) < _MOST_EVENTS_AT_ONCE:
            event = answer.take()
            assert event is not None
            batch.append(event)
            if type(event) is Delta:
                tokens += len(event.token_ids)
        return batch

    def notify(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on the loop whenever `take_nowait` may have something new.

        For whoever hands events on without a task of its own that would have to be woken. It is
        called for what is there already, too. It must not raise.
        """
        self._delivery.notify(callback)

    def take_nowait(self) -> Event | None:
        """Return the next event, and count its tokens as read; None: none is there now, or, if
        `ended`, none any more. Raises TokenstreamError, once everything before was taken.
        """
        delivery = self._delivery
        event = delivery.take()
        if event is not None:
            self._note(event)
            if type(event) is Delta:
                delivery.consume(len(event.token_ids))
        return event

    def take_ready(self) -> tuple[Event, ...]:
        """Return all events that are there, as repeated `take_nowait`s would: none more than the
        window's. Raises TokenstreamError, once everything before was taken.
        """
        delivery, tokens = self._delivery, 0
        events = delivery.take_ready()
        for event in events:
            if type(event) is Delta:
                tokens += len(event.token_ids)
            self._note(event)
        if tokens:
            delivery.consume(tokens)
        return events

    def peek(self) -> Event | None:
        """Return the event that `take_nowait` would, and leave it there."""
        return self._delivery.answer.peek()

    @property
    def ended(self) -> bool:
        """Whether it has its end, which may still wait to be read."""
        return self._delivery.answer.ended

    @property
    def has_events(self) -> bool:
        """Whether `take_nowait` has an event."""
        return self._delivery.answer.has_events

    @property
    def failed(self) -> bool:
        """Whether it ended with an error, which may still wait to be read."""
        answer = self._delivery.answer
        return answer.ended and answer.error is not None

    def let_be(self) -> None:
        """Do not read it on by itself after a lost connection: another reader may have come."""
        self._delivery.answer.resumes = False

    def detach(self) -> None:
        """Let go of the stream without ending it: `resume` reads on, here or elsewhere, while its
        time to live lasts. One that was begun with ``on_disconnect="end"`` ends all the same.
        """
        self._delivery.answer.stops_when_left = False
        self._delivery.leave()

    def note_read(self, tokens: int) -> None:
        """Count so many tokens more of the batches as read."""
        if tokens:
            self._delivery.consume(tokens)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Nobody can read it any more; whoever collects it may be any thread.
        delivery = getattr(self, "_delivery", None)
        if delivery is not None and not delivery.answer.ended:
            with suppress(RuntimeError):  # the loop is closed, and everything with it
                delivery.loop.call_soon_threadsafe(delivery.leave)
