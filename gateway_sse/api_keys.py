"""Whose request it is: the caller's key, which the service checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from tokenstream_client import PermissionDenied, Unauthenticated

_LONGEST: Final = 4096


def api_key_of(request: web.Request) -> str | None:
    """Return the caller's own key, to be passed on; None: the bridge's default one goes.

    Raises Unauthenticated for one that cannot be read.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    return checked_key(key.strip())


def checked_key(key: str) -> str:
    """Return a key that a header can carry. Raises Unauthenticated."""
    if len(key) > _LONGEST:
        raise Unauthenticated(
            f"the API key has more than {_LONGEST} characters", reason="MALFORMED_KEY"
        )
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise Unauthenticated("the API key cannot be read", reason="MALFORMED_KEY")
    return key


@contextmanager
def keys_checked() -> Iterator[None]:
    """Raise PermissionDenied where the client refuses to send a key in the clear."""
    try:
        yield
    except ValueError as error:
        raise PermissionDenied(
            "the gateway passes no keys on: it has no encrypted connection to the service; its"
            " operator: set upstream_tls (--upstream-tls), or allow_plaintext_keys"
            " (--allow-plaintext-keys) where something else encrypts",
            reason="KEY_NOT_PASSED_ON",
        ) from error
