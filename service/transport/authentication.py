"""From a call's metadata, or from a key inside a message, to the caller it names.

The services of the contract ask here; health and reflection answer everybody, as probes have no
key and the contract is public. Nothing here repeats or logs what was presented.
"""

from collections.abc import Iterable
from typing import Protocol

from service.admission.callers import ANONYMOUS, Caller
from service.errors import Unauthenticated

_HEADER = "authorization"
_HOW = "send the metadata 'authorization: Bearer <key>'"

Metadata = Iterable[tuple[str, str | bytes]]


class Keys(Protocol):
    """Knows keys; `KeyFile` and `KeyRing` do."""

    def identify(self, key: str) -> Caller | None:
        """Whose key it is; None if it is nobody's."""


class Authenticator:
    """Names callers by `keys`; with None everybody is `ANONYMOUS`, whatever is presented."""

    def __init__(self, keys: Keys | None) -> None:
        self._keys = keys

    def caller_of(self, metadata: Metadata | None) -> Caller:
        """The caller of one call. `metadata`: as gRPC has it, names in lower case.

        Raises `Unauthenticated`.
        """
        caller = self.session_caller(metadata)
        if caller is None:
            raise Unauthenticated(f"no API key; {_HOW}")
        return caller

    def session_caller(self, metadata: Metadata | None) -> Caller | None:
        """The caller of a session; None if it has no key, so that each start has to bring one.

        A proxy need not be a tenant itself. Raises `Unauthenticated` for a key that is wrong.
        """
        if self._keys is None:
            return ANONYMOUS
        values = [value for name, value in metadata or () if name.lower() == _HEADER]
        if not values:
            return None
        if len(values) > 1:
            raise Unauthenticated("several authorization headers; send one")
        return self.caller_of_key(_bearer(values[0]))

    def caller_of_key(self, key: str, otherwise: Caller | None = None) -> Caller:
        """The caller whose key came inside a message; `otherwise` if it is empty.

        Raises `Unauthenticated` if the key is nobody's, or there is neither.
        """
        if self._keys is None:
            return ANONYMOUS
        if not key:
            if otherwise is None:
                raise Unauthenticated("no API key; the request has none and its session neither")
            return otherwise
        caller = self._keys.identify(key)
        if caller is None:
            raise Unauthenticated("the API key is not valid")
        return caller


def _bearer(value: str | bytes) -> str:
    """The key of an authorization header (RFC 6750, 2.1; RFC 9110, 11.1: any case)."""
    if isinstance(value, bytes):
        raise Unauthenticated(f"the authorization header is not text; {_HOW}")
    scheme, _, key = value.strip().partition(" ")
    if scheme.lower() != "bearer":
        # Not repeated: it could be a key without its scheme.
        raise Unauthenticated(f"the authorization header has not the scheme Bearer; {_HOW}")
    key = key.strip()
    if not key:
        raise Unauthenticated(f"the authorization header has no key; {_HOW}")
    return key
