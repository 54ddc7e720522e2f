"""How far ahead of its acknowledgements an answer may go, for clients that pace themselves.

Rules:

1. No text of tokens from the limit on is sent; what is in one delta with an earlier one is. A token
   without text, of which the client never hears, is not waited for.
2. An end waits behind what is held back; a failure does not.
3. A client that is waited for, and acknowledges nothing for the stall limit, has stalled: its
   stream is closed with that.
"""

import asyncio
from collections.abc import Sequence

from tokenstream_client import Aborted, AsyncStream, Delta, Event


class AckWindow:
    """See the rules above. `window`: tokens; None: any number, and nobody is waited for."""

    __slots__ = ("_limit", "_stall_limit_s", "_stream", "_timer", "_window")

    def __init__(self, stream: AsyncStream, window: int | None, stall_limit_s: float) -> None:
        """The client begins where the stream does."""
        self._stream = stream
        self._window = window
        self._limit = None if window is None else stream.next_token_index + window
        self._stall_limit_s = stall_limit_s
        self._timer: asyncio.TimerHandle | None = None

    def take_ready(self) -> Sequence[Event]:
        """Return the events that may go now; see `AsyncStream.take_ready`."""
        if self._limit is None:
            return self._stream.take_ready()
        events = list[Event]()
        # What would raise waits until all before it was taken.
        while (self._stream.has_events or not events) and (event := self.take()) is not None:
            events.append(event)
        return events

    def take(self) -> Event | None:
        """Return the next of them; see `AsyncStream.take_nowait`."""
        stream, limit = self._stream, self._limit
        if limit is None or stream.next_token_index < limit or stream.failed:
            return stream.take_nowait()
        event = stream.peek()
        if type(event) is not Delta or not event.text:
            return stream.take_nowait()
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._stall_limit_s, self._stalled)
        return None

    def acknowledge(self, next_token_index: int) -> bool:
        """Take notice of how far the client is; tell whether more may go for it."""
        if self._limit is None or self._window is None:
            return False
        limit = next_token_index + self._window
        if limit <= self._limit:
            return False
        self._limit = limit
        self.close()
        return True

    def close(self) -> None:
        """Wait for nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stalled(self) -> None:
        why = "nothing was acknowledged for too long"
        self._stream.close_with(Aborted(why, reason="STREAM_STALLED"))
