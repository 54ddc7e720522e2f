"""Requests on their way to the engine: alone at once, in a burst together.

Waking the engine's side costs ten times what a message does (docs/benchmarks.md), so a request
that follows another within `WINDOW_S` waits for the window's end, with all that come meanwhile.

Bound: the requests that are let in within one window.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

_log = structlog.get_logger(__name__)

WINDOW_S = 0.004


class Submissions:
    """`send`: hands one request over without waiting, or fails if the engine has gone."""

    def __init__(self, send: Callable[[Any], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: list[Any] = []
        self._window: asyncio.TimerHandle | None = None
        self._sending: asyncio.Task[None] | None = None

    async def add(self, request: Any) -> None:
        """Send a request now or soon, before whatever is sent after `flush`."""
        if self._window is not None:
            self._waiting.append(request)
            return
        self._window = asyncio.get_running_loop().call_later(WINDOW_S, self._close_window)
        await self._send(request)

    async def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            await self._send(request)

    def close(self) -> None:
        """Send no more."""
        self._waiting.clear()
        if self._window is not None:
            self._window.cancel()
        if self._sending is not None:
            self._sending.cancel()

    def _close_window(self) -> None:
        self._window = None
        if self._waiting:
            loop = asyncio.get_running_loop()
            self._window = loop.call_later(WINDOW_S, self._close_window)
            self._sending = loop.create_task(self._flush_quietly())

    async def _flush_quietly(self) -> None:
        try:
            await self.flush()
        except Exception as error:  # their streams end with the engine, which has gone
            _log.debug("not_submitted", error=repr(error))
