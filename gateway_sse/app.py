"""The bridge's composition root: the application."""

from collections.abc import AsyncIterator
from pathlib import Path

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
from tokenstream_client import AsyncClient, ClientOptions, Tls


def create_app(
    settings: GatewaySettings,
    streams: OpenStreams | None = None,
    slow_senders: SlowSenders | None = None,
) -> web.Application:
    """Make the application. Whoever drains it passes `streams`, and cuts them in the end."""
    streams = streams if streams is not None else OpenStreams()
    metrics = GatewayMetrics()
    metrics.watch(lambda: len(streams), lambda: streams.lingering)
    first = [] if slow_senders is None else [slow_senders.middleware]
    app = web.Application(
        middlewares=[*first, logged, errors_answered, ClientLimit().middleware],
        client_max_size=settings.max_body_bytes,
    )

    async def connected(app: web.Application) -> AsyncIterator[None]:
        async with connect(settings) as client:
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


def connect(settings: GatewaySettings) -> AsyncClient:
    """Make the client: one session for all callers, resumed without their noticing.

    Raises OSError if a file of TLS cannot be read, ValueError for a key that no header can carry.
    """
    tls: Tls | None = None
    if settings.upstream_encrypted:
        tls = Tls(
            root_certificates=_content(settings.upstream_ca_file),
            private_key=_content(settings.upstream_private_key_file),
            certificate_chain=_content(settings.upstream_certificate_file),
        )
    return AsyncClient(
        settings.upstream,
        api_key=settings.api_key.get_secret_value() if settings.api_key else None,
        tls=tls or False,
        options=ClientOptions(
            # A refusal is the caller's to know, with the time to come back.
            max_attempts=1,
            allow_plaintext_keys=settings.allow_plaintext_keys,
        ),
    )


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
