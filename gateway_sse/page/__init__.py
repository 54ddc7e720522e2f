"""The page's files, as they are: no build step, nothing from elsewhere."""

from pathlib import Path
from typing import Final

from aiohttp import web

_FOLDER: Final = Path(__file__).parent
_KINDS: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES: Final = frozenset(path for path in _FOLDER.iterdir() if path.suffix in _KINDS)

_HEADERS: Final = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes() -> list[web.RouteDef]:
    """Return the table of what is answered."""
    return [web.get("/", file), web.get("/page/{name}", file)]


async def file(request: web.Request) -> web.StreamResponse:
    """Give out one of them."""
    path = _FOLDER / request.match_info.get("name", "index.html")
    if path not in _FILES:
        raise web.HTTPNotFound
    return web.FileResponse(path, headers={**_HEADERS, "content-type": _KINDS[path.suffix]})
