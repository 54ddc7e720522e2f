"""A port of its own for operators: metrics and health in plain HTTP, for those without a key.

Metrics are brought up to date on the event loop, which owns what they tell of, and written out in
a thread, because that takes milliseconds.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest


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

    async def metrics(_: web.Request) -> web.Response:
        refresh()
        body = await asyncio.to_thread(generate_latest, registry)
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
