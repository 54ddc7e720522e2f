"""Which web pages of other origins may call: none, but for those that are named.

CORS is a matter of response headers, and of the questions that browsers ask first (preflights); a
WebSocket has neither, so its origin is checked when it opens (https://fetch.spec.whatwg.org,
RFC 6455 10.2).
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import aiohttp_cors
from aiohttp import web

from gateway_sse.problems import Refused

_REQUEST_HEADERS: Final = (
    "authorization",
    "content-type",
    "last-event-id",
    "traceparent",
    "tracestate",
    "accept",
)
_A_DAY_S: Final = 86_400


def let_in(app: web.Application, origins: Sequence[str]) -> None:
    """Answer pages of these origins, on all routes that the application has by now."""
    if not origins:
        return
    options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]  # it has no types
        allow_headers=_REQUEST_HEADERS,
        expose_headers=("retry-after",),
        allow_methods=("GET", "POST", "DELETE"),
        max_age=_A_DAY_S,
    )
    cors = aiohttp_cors.setup(app, defaults=dict.fromkeys(origins, options))
    for route in list(app.router.routes()):
        cors.add(route)

    async def vary(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.add("vary", "origin")  # so that no cache gives one page's to another

    app.on_response_prepare.append(vary)


def check_fetch(request: web.Request, origins: Sequence[str]) -> None:
    """Refuse a GET that another site's page made without asking first, such as an image's: it
    would not read the answer, but have it generated. Browsers tell, by Fetch Metadata where the
    connection is trusted, else by Origin; raises Refused (403).
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    foreign = site not in (None, "none", "same-origin") if origin is None else True
    if foreign and not _may(request, origin, origins):
        raise Refused("ORIGIN_NOT_ALLOWED", "may not call this", field="Origin", status=403)


def check_websocket(request: web.Request, origins: Sequence[str]) -> None:
    """Refuse a page of another origin that is not let in. Raises Refused (403)."""
    origin = request.headers.get("origin")
    if origin is not None and not _may(request, origin, origins):
        raise Refused("ORIGIN_NOT_ALLOWED", "may not open sockets here", field="Origin", status=403)


def _may(request: web.Request, origin: str | None, origins: Sequence[str]) -> bool:
    """Tell whether a page of this origin may call: it is let in, or this host's own."""
    if "*" in origins or origin in origins:
        return True
    try:
        return origin is not None and urlsplit(origin).netloc == request.host
    except ValueError:
        return False
