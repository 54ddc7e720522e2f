"""How many answers one client may have open, and how long it may take to say what it wants.

Bounds: one count for each client with something open.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from gateway_sse.api_keys import api_key_of
from gateway_sse.bridge import bridge_of
from gateway_sse.problems import Problem, Refused

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_RETRY_AFTER_S: Final = 1.0
_COUNTED: Final = "/v1/"


class ClientLimit:
    """Counts requests in progress for each client: its API key, else its address.

    Behind a proxy all addresses are the proxy's; then callers should have keys, or no limit.
    """

    def __init__(self) -> None:
        self._open = Counter[str]()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what is over the limit (429)."""
        most = bridge_of(request).settings.max_requests_per_client
        if most is None or not request.path.startswith(_COUNTED):
            return await handler(request)
        # Only what is passed on as a key: else a new header would be a new client.
        client = api_key_of(request) or request.remote or ""
        if self._open[client] >= most:
            why = f"this client has {most} requests open, and may not have more"
            refused = Refused("TOO_MANY_REQUESTS_OPEN", why, status=429)
            refused.problem = Problem(
                429, "RESOURCE_EXHAUSTED", "TOO_MANY_REQUESTS_OPEN", why, (), _RETRY_AFTER_S
            )
            raise refused
        self._open[client] += 1
        try:
            return await handler(request)
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]


class SlowSenders:
    """Drops connections that have not sent the head of a first request in time.

    aiohttp bounds the silence between requests, not the time that a first one takes. Bound: one
    entry for each connection that has just been opened.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._silent: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    def watched(self, make: Callable[[], web.RequestHandler]) -> Callable[[], web.RequestHandler]:
        """Return what makes a connection's protocol, and has it looked at when its time is up."""

        def make_watched() -> web.RequestHandler:
            protocol = make()
            self._silent[protocol] = asyncio.get_running_loop().call_later(
                self._limit_s, self._drop, protocol
            )
            return protocol

        return make_watched

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note that a connection's request has come."""
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        return await handler(request)

    def _drop(self, protocol: web.RequestHandler) -> None:
        del self._silent[protocol]
        if protocol.transport is not None:
            protocol.transport.abort()
