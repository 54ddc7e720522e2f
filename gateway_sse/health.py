"""Whether the bridge is alive, and whether the service behind it takes requests."""

from aiohttp import web

from gateway_sse.bridge import Bridge, bridge_of
from gateway_sse.json_response import json_response


def routes() -> list[web.RouteDef]:
    """Return the table of what is answered."""
    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


async def healthz(_: web.Request) -> web.Response:
    """Tell that this process is alive, whatever the service does."""
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Tell whether the service behind takes requests, and this process does."""
    if await is_ready(bridge_of(request)):
        return json_response({"status": "ready"})
    return json_response({"status": "not ready"}, status=503)


async def is_ready(bridge: Bridge) -> bool:
    """Return whether answers can be had here."""
    return not bridge.streams.draining and await bridge.client.is_ready()
