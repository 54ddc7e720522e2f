"""W3C trace context, passed on to the service as it came (https://www.w3.org/TR/trace-context)."""

import re
from typing import Final

from aiohttp import web

# An id of zeros is none. Versions after 00 may have more behind the flags.
_TRACEPARENT: Final = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
    r"(?P<more>-[\x21-\x7e]*)?"
)
_LONGEST: Final = 512


def trace_context_of(request: web.Request) -> tuple[str, str]:
    """Return traceparent and tracestate; empty where they are missing or cannot be used."""
    traceparent = request.headers.get("traceparent", "")
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or len(traceparent) > _LONGEST or (match["version"] == "00" and match["more"]):
        return "", ""
    tracestate = ",".join(request.headers.getall("tracestate", ()))
    usable = len(tracestate) <= _LONGEST and tracestate.isascii() and tracestate.isprintable()
    return traceparent, tracestate if usable else ""
