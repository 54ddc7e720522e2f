"""Requests on their way to the engine: alone at once, in a burst together.

Waking the engine's side costs several times what a message does (docs/benchmarks.md), so a request
that follows another within `WINDOW_S` waits for the window's end, with all that come meanwhile.

Bound: the requests that are let in within one window.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

WINDOW_S = 0.004


class Submissions:
    """`send`: hands one request over without waiting, or raises what is wrong with it."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._window: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None

    async def add(self, *requests: Any) -> None:
        """Send a request, or several that belong together, now or soon. Raises what `send` raises.

        Whoever no longer waits has sent it all the same, unless that raises.
        """
        loop = asyncio.get_running_loop()
        if self._window is None:
            self._window = loop.call_later(WINDOW_S, self._close_window)
            for request in requests:
                await self._send(request)
            return
        sent: asyncio.Future[None] = loop.create_future()
        self._waiting.append((requests, sent))
        await sent

    async def flush(self) -> None:
        """Send what waits, ahead of whatever is sent behind this."""
        waiting, self._waiting = self._waiting, []
        for requests, sent in waiting:
            try:
                for request in requests:
                    await self._send(request)
            except Exception as error:
                if not sent.done():
                    sent.set_exception(error)
            else:
                if not sent.done():
                    sent.set_result(None)

    def close(self) -> None:
        """Send no more; nobody waits any longer."""
        if self._window is not None:
            self._window.cancel()
        if self._flushing is not None:
            self._flushing.cancel()
        for _, sent in self._waiting:
            sent.cancel()
        self._waiting.clear()

    def _close_window(self) -> None:
        self._window = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._window = loop.call_later(WINDOW_S, self._close_window)
            self._flushing = loop.create_task(self.flush())
