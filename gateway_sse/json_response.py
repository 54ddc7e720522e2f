"""JSON as it is registered: UTF-8 by definition, without a charset (RFC 8259, section 11)."""

import json
from collections.abc import Mapping

from aiohttp import web


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with a value; a lone surrogate in it, which has no UTF-8, becomes "?"."""
    encoded = json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="replace")
    return json_bytes(encoded, status=status, headers=headers)


def json_bytes(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with what is JSON already."""
    return web.Response(
        body=body,
        status=status,
        headers={"content-type": "application/json", **(headers or {})},
    )
