"""W3C trace context, passed on to the service as it came (https://www.w3.org/TR/trace-context)."""

import re
from typing import Final

from aiohttp import web

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_LONGEST: Final = 512


def trace_context_of(request: web.Request) -> tuple[str, str]:
    """Return traceparent and tracestate; empty where they are missing or cannot be used."""
    traceparent = request.headers.get("traceparent", "")
    if len(traceparent) > _LONGEST or _TRACEPARENT.fullmatch(traceparent) is None:
        return "", ""
    tracestate = request.headers.get("tracestate", "")
    usable = len(tracestate) <= _LONGEST and tracestate.isascii() and tracestate.isprintable()
    return traceparent, tracestate if usable else ""
