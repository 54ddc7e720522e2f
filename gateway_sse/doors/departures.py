"""Clients that go all at once are seen off a few at a time, so that nobody else waits for it.

A proxy that stops, or a network that fails, closes hundreds of connections in one turn of the event
loop, and each costs 0.1 ms: its handler is cancelled, its stream let linger, its line logged. Only
a few are told of it in a turn; between turns whoever is still there gets what has come.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

_IN_A_TURN: Final = 2


class Departures:
    """Connections that have closed, and have not been told yet. Bound: an entry for each."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = deque[Callable[[], None]]()
        self._turn: asyncio.Handle | None = None

    def add(self, see_off: Callable[[], None]) -> None:
        """Call it in a turn of the event loop to come, in the order of the calls."""
        self._waiting.append(see_off)
        if self._turn is None:
            self._turn = self._loop.call_soon(self._see_off_some)

    def _see_off_some(self) -> None:
        for _ in range(min(_IN_A_TURN, len(self._waiting))):
            # In a call of its own: one that fails keeps no other from it.
            self._loop.call_soon(self._waiting.popleft())
        self._turn = self._loop.call_soon(self._see_off_some) if self._waiting else None


class Connection(web.RequestHandler):
    """One client's connection. In the turns between its close and its being told, what would be
    written to it is dropped by its transport.
    """

    __slots__ = ("_departures",)

    def __init__(self, server: web.Server, departures: Departures, **options: Any) -> None:
        """`options`: those of aiohttp's `RequestHandler`."""
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._departures = departures

    def connection_lost(self, exc: BaseException | None) -> None:
        """Be told that it has closed, for `asyncio.Protocol`."""
        self._departures.add(lambda: web.RequestHandler.connection_lost(self, exc))
