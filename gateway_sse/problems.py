"""From an error to an HTTP status and a JSON body. No I/O.

Every failure has one form, as a response before a stream's start and as its ``error`` event after
it::

    {"error": {"code": "INVALID_ARGUMENT", "reason": "INVALID_REQUEST", "message": "…",
               "field_violations": [{"field": "top_p", "description": "…"}],
               "retry_after_s": null}}
"""

import math
from dataclasses import dataclass
from typing import Any, Final

from tokenstream_client import FieldViolation, TokenstreamError, TooLarge

# gRPC's own mapping (google.rpc.Code), but 503 and 504 kept apart from 500.
_STATUSES: Final = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_UNAUTHENTICATED: Final = 401
_REFUSALS: Final = {
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
}
_UPGRADE_REQUIRED: Final = 426
_RETRYABLE: Final = (429, 503)
_DEFAULT_RETRY_S: Final = 1.0

# What callers may read where the service did not speak: gRPC's own words name addresses.
_OWN_WORDS: Final = {
    "UNAVAILABLE": "the service cannot be reached",
    "DEADLINE_EXCEEDED": "the answer took too long",
    "CANCELLED": "the request was cancelled",
    "UNIMPLEMENTED": "the service does not know this call",
}

# Where the contract's field paths and this API's names differ.
_PREFIXES: Final = ("sampling.", "stream.", "structured_output.", "chat.")
_RENAMED: Final = {
    "text": "prompt",
    "token_ids.ids": "token_ids",
    "chat": "messages",
    "time_to_live_ms": "time_to_live",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure as this API tells it."""

    status: int
    """Of HTTP."""
    code: str
    """Of gRPC, by name."""
    reason: str
    message: str
    field_violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None

    def body(self) -> dict[str, Any]:
        """Return what is sent as JSON."""
        return {
            "error": {
                "code": self.code,
                "reason": self.reason,
                "message": self.message,
                "field_violations": [
                    {"field": v.field, "description": v.description} for v in self.field_violations
                ],
                "retry_after_s": self.retry_after_s,
            }
        }

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it: how to log in, what to change to, or Retry-After in
        whole seconds, rounded up.
        """
        if self.status == _UNAUTHENTICATED:
            return {"www-authenticate": "Bearer"}
        if self.status == _UPGRADE_REQUIRED:
            return {"upgrade": "websocket"}
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}


class Refused(Exception):  # a request is refused; nothing is wrong here
    """The bridge itself turns a request down, before asking the service. Expected."""

    def __init__(
        self, reason: str, message: str, *, field: str | None = None, status: int = 400
    ) -> None:
        """`field` names the one at fault, `status` is HTTP's."""
        violations = () if field is None else (FieldViolation(field, message),)
        text = message if field is None else f"{field}: {message}"
        super().__init__(text)
        code = _REFUSALS.get(status, "INVALID_ARGUMENT")
        self.problem = Problem(status, code, reason, text, violations)

    @classmethod
    def of(cls, reason: str, violations: tuple[FieldViolation, ...]) -> "Refused":
        """Refuse several fields at once."""
        text = "; ".join(f"{v.field}: {v.description}" for v in violations)
        refused = cls(reason, text)
        refused.problem = Problem(400, "INVALID_ARGUMENT", reason, text, violations)
        return refused


def problem_from_error(error: TokenstreamError) -> Problem:
    """Turn what a call raised into what the caller is told, in this API's field names."""
    status = 413 if isinstance(error, TooLarge) else _STATUSES.get(error.code, 500)
    retry_after = error.retry_after
    if retry_after is None and status in _RETRYABLE:
        retry_after = _DEFAULT_RETRY_S
    violations = tuple(
        FieldViolation(_public_name(v.field), v.description) for v in error.field_violations
    )
    if violations:
        message = "; ".join(f"{v.field}: {v.description}" for v in violations)
    elif error.reason:
        message = error.message
    else:
        message = _OWN_WORDS.get(error.code, "the request failed")
    return Problem(status, error.code, error.reason, message, violations, retry_after)


def problem_from_http(status: int, message: str) -> Problem:
    """Describe a request that no route took."""
    code = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}.get(status, "INVALID_ARGUMENT")
    return Problem(status, code, f"HTTP_{status}", message)


INTERNAL: Final = Problem(
    500, "INTERNAL", "GATEWAY_FAILED", "the gateway failed; its log has the cause"
)
"""A bug in the bridge."""


def _public_name(path: str) -> str:
    for prefix in _PREFIXES:
        path = path.removeprefix(prefix)
    name, bracket, index = path.partition("[")
    return _RENAMED.get(name, name) + bracket + index
