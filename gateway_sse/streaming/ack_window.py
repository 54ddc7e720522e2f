"""How far ahead of its acknowledgements an answer may go, for clients that pace themselves.

Rules:

1. No text of tokens from the limit on is sent; what is in one delta with an earlier one is.
2. Nobody is waited for who knows of nothing to acknowledge: a client hears only of tokens with
   text, and those without can take a stream past its limit.
3. An end waits behind what is held back; a failure does not.
4. A client that is waited for, and acknowledges nothing for the stall limit, has stalled: its
   stream is closed with that.
"""

import asyncio
from collections.abc import Sequence

from tokenstream_client import Aborted, AsyncStream, Delta, Event


class AckWindow:
    """See the rules above. `window`: tokens; None: any number, and nobody is waited for."""

    __slots__ = ("_acknowledged", "_heard", "_stall_limit_s", "_stream", "_timer", "_window")

    def __init__(self, stream: AsyncStream, window: int | None, stall_limit_s: float) -> None:
        """The client begins where the stream does."""
        self._stream = stream
        self._window = window
        self._acknowledged = stream.next_token_index
        self._heard = stream.next_token_index  # the highest index that the client was told
        self._stall_limit_s = stall_limit_s
        self._timer: asyncio.TimerHandle | None = None

    def take_ready(self) -> Sequence[Event]:
        """Return the events that may go now; see `AsyncStream.take_ready`."""
        if self._window is None:
            return self._stream.take_ready()
        events = list[Event]()
        # What would raise waits until all before it was taken.
        while (self._stream.has_events or not events) and (event := self.take()) is not None:
            events.append(event)
        return events

    def take(self) -> Event | None:
        """Return the next of them; see `AsyncStream.take_nowait`."""
        stream, window = self._stream, self._window
        if window is None:
            return stream.take_nowait()
        event = stream.peek()
        if type(event) is Delta and event.text:
            is_known_further = self._heard > self._acknowledged
            past = stream.next_token_index >= self._acknowledged + window
            if past and is_known_further and not stream.failed:
                self._wait()
                return None
            self._heard = event.first_token_index + len(event.token_ids)
        return stream.take_nowait()

    def acknowledge(self, next_token_index: int) -> bool:
        """Take notice of how far the client is; tell whether more may go for it."""
        if self._window is None or next_token_index <= self._acknowledged:
            return False
        self._acknowledged = next_token_index
        self.close()
        return True

    def close(self) -> None:
        """Wait for nobody any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._stall_limit_s, self._stalled)

    def _stalled(self) -> None:
        why = "nothing was acknowledged for too long"
        self._stream.close_with(Aborted(why, reason="STREAM_STALLED"))
