"""The bridge's composition root: the application."""

from collections.abc import AsyncIterator

from aiohttp import web

from gateway_sse import health, openapi, page
from gateway_sse.bridge import BRIDGE, Bridge
from gateway_sse.config import GatewaySettings
from gateway_sse.doors.connections import ClientLimit, SlowSenders
from gateway_sse.doors.errors import errors_answered
from gateway_sse.doors.origins import let_in
from gateway_sse.metrics import GatewayMetrics
from gateway_sse.native import routes as native
from gateway_sse.native import websocket
from gateway_sse.openai import routes as openai
from gateway_sse.request_log import logged
from gateway_sse.streaming.open_streams import OpenStreams
from gateway_sse.upstream import connect, tls_of


def create_app(
    settings: GatewaySettings,
    streams: OpenStreams | None = None,
    slow_senders: SlowSenders | None = None,
) -> web.Application:
    """Make the application. Whoever drains it passes `streams`, and cuts them in the end.

    Raises `TlsFilesError`.
    """
    upstream_tls = tls_of(settings)
    streams = streams if streams is not None else OpenStreams()
    metrics = GatewayMetrics()
    metrics.watch(lambda: len(streams), lambda: streams.lingering)
    first = [] if slow_senders is None else [slow_senders.middleware]
    app = web.Application(
        middlewares=[*first, logged, errors_answered, ClientLimit().middleware],
        client_max_size=settings.max_body_bytes,
    )

    async def connected(app: web.Application) -> AsyncIterator[None]:
        async with connect(settings, upstream_tls) as client:
            app[BRIDGE] = Bridge(settings, client, streams, metrics)
            yield
            streams.close()

    app.cleanup_ctx.append(connected)
    app.on_response_prepare.append(_without_versions)
    app.add_routes(
        [
            *native.routes(),
            *openai.routes(),
            *health.routes(),
            *page.routes(),
            *openapi.routes(),
        ]
    )
    websocket.close_with(app)
    let_in(app, settings.cors_origins)
    return app


async def _without_versions(_: web.Request, response: web.StreamResponse) -> None:
    """Say what answers, and not in which version."""
    response.headers["server"] = "tokenstream"
