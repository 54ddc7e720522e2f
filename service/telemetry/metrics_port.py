"""A port of its own for operators: metrics and health in plain HTTP, for those without a key.

Metrics are brought up to date on the event loop, which owns what they tell of, and written out in
a thread, because that takes milliseconds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest

_REST_S: Final = 0.2


@asynccontextmanager
async def metrics_port(
    address: str,
    registry: CollectorRegistry,
    refresh: Callable[[], None],
    is_ready: Callable[[], Awaitable[bool]],
) -> AsyncIterator[None]:
    """Serve /metrics, /healthz and /readyz on host:port. Raises OSError if it is taken.

    Metrics are in the plain text format whatever is accepted: in OpenMetrics' prometheus_client
    would write "vllm_" for "vllm:".
    """

    text = _Text(registry, refresh)

    async def metrics(_: web.Request) -> web.Response:
        body = await text.newest()
        return web.Response(body=body, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        if await is_ready():
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready"}, status=503)

    app = web.Application()
    app.add_routes(
        [web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        host, _, port = address.rpartition(":")
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield
    finally:
        await runner.cleanup()


class _Text:
    """The metrics as text: made five times a second at most, however many ask for it, because it
    takes time of all streams. Nobody gets what was made before they asked.
    """

    def __init__(self, registry: CollectorRegistry, refresh: Callable[[], None]) -> None:
        self._registry = registry
        self._refresh = refresh
        self._loop = asyncio.get_running_loop()
        self._made_at = -_REST_S
        self._next: asyncio.Task[bytes] | None = None

    async def newest(self) -> bytes:
        if self._next is None:
            self._next = self._loop.create_task(self._make())
        return await asyncio.shield(self._next)

    async def _make(self) -> bytes:
        await asyncio.sleep(self._made_at + _REST_S - self._loop.time())
        self._made_at, self._next = self._loop.time(), None
        self._refresh()
        return await asyncio.to_thread(generate_latest, self._registry)
