"""Whether the bridge is alive and takes requests, and, where asked, whether the service does.

Readiness by itself says nothing of the service: while that is restarted, bridges that left the
balancer for it could tell nobody when to come back, and take no acknowledgement of what still runs.
"""

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
    """Tell whether this process takes requests; with `upstream=1`, the service behind, too."""
    if await is_ready(bridge_of(request), asks_upstream(request)):
        return json_response({"status": "ready"})
    return json_response({"status": "not ready"}, status=503)


def asks_upstream(request: web.BaseRequest) -> bool:
    """Return whether a question for readiness includes the service behind."""
    return request.query.get("upstream") == "1"


async def is_ready(bridge: Bridge, with_upstream: bool) -> bool:
    """Return whether answers are welcome here and, `with_upstream`, can be had."""
    if bridge.streams.draining:
        return False
    return not with_upstream or await bridge.client.is_ready()
