"""Reading a request's body: no more than is allowed, and not for ever."""

import asyncio

from aiohttp import web

from gateway_sse.bridge import bridge_of
from gateway_sse.problems import Refused


async def read_body(request: web.Request) -> bytes:
    """Return the body. Raises Refused: 413 for a large one, 408 for one that comes too slowly, 400
    for one that is not encoded as its head says.
    """
    try:
        return await _read(request)
    except web.RequestPayloadError:
        raise Refused("UNREADABLE_BODY", "the body is not encoded as its head says") from None


async def _read(request: web.Request) -> bytes:
    settings = bridge_of(request).settings
    limit = settings.max_body_bytes
    too_large = Refused("BODY_TOO_LARGE", f"the body is larger than {limit} bytes", status=413)
    if (request.content_length or 0) > limit:
        raise too_large
    if request.content.is_eof():  # it came with the head, as short ones do
        whole = request.content.read_nowait()
        if len(whole) > limit:
            raise too_large
        return whole
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        why = f"the body did not come within {settings.body_timeout_s:g} seconds"
        raise Refused("BODY_TOO_SLOW", why, status=408) from None
    return bytes(body)
