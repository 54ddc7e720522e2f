"""Everything that a call can fail with.

::

    TokenstreamError       anything else that has a gRPC status: the base class itself
    ├── InvalidRequest     you: mend the fields in `field_violations`
    ├── Unauthenticated    you: no API key, or one that the service does not know
    ├── PermissionDenied   you: the key is known, but may not do this
    ├── TooLarge           you: the message is over one side's size limit
    ├── NotFound           you: no such model, or no running stream of that id
    ├── Busy               nobody: expected under load, come back after `retry_after` seconds
    ├── Unavailable        nobody: starting, draining, or not reachable; come back or go elsewhere
    ├── DeadlineExceeded   you: the `timeout` that you gave has passed
    ├── Cancelled          you: the call was closed from this side
    ├── Aborted            you: the service gave the stream up, `reason` says why
    └── Internal           the service's operator: this request failed, its log has the cause

`TokenstreamError` and its subclasses are the only exceptions that calls raise on purpose; a
`TypeError` is a mistake in the calling code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One bad field: its path in the request message, and what is wrong with it."""

    field: str
    description: str


class TokenstreamError(Exception):
    """A call that did not end well.

    Attributes:
        code: name of the gRPC status, such as ``"NOT_FOUND"``.
        reason: the stable, machine-readable cause (``google.rpc.ErrorInfo.reason``), such as
            ``"MODEL_NOT_FOUND"``. Empty if the service did not speak: a lost connection, a
            proxy, a deadline that passed here.
        message: one sentence for people.
        field_violations: the bad fields, if that was it.
        retry_after: seconds after which another try makes sense; None if the service named none.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        reason: str = "",
        field_violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = reason
        self.field_violations = tuple(field_violations)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return (
            f"{self.code} ({self.reason}): {self.message}"
            if self.reason
            else f"{self.code}: {self.message}"
        )


class InvalidRequest(TokenstreamError):
    """The request has bad fields. Raised before sending where this side can already tell.

    With code ``"OUT_OF_RANGE"``: a stream was to be read on from a token that it has not reached.
    """

    default_code = "INVALID_ARGUMENT"


class Unauthenticated(TokenstreamError):
    """The service wants an API key, and got none that it knows."""

    default_code = "UNAUTHENTICATED"


class PermissionDenied(TokenstreamError):
    """The service knows the API key, and does not let it do this."""

    default_code = "PERMISSION_DENIED"


class TooLarge(TokenstreamError):
    """A message is larger than this client's or the service's limit. Trying again is no use."""

    default_code = "RESOURCE_EXHAUSTED"


class NotFound(TokenstreamError):
    """The service does not serve the model, or no stream of that id is running."""

    default_code = "NOT_FOUND"


class Busy(TokenstreamError):
    """All places are taken, or a quota is spent. `retry_after` comes from the load."""

    default_code = "RESOURCE_EXHAUSTED"


class Unavailable(TokenstreamError):
    """The service is starting or draining, or there is no connection to it.

    With reason ``"STREAM_LOST"``: the connection was lost, and the stream could not be read on
    within its time to live; the message tells how many tokens had come.
    """

    default_code = "UNAVAILABLE"


class DeadlineExceeded(TokenstreamError):
    """The timeout passed, in the service's queue or in the middle of the answer."""

    default_code = "DEADLINE_EXCEEDED"


class Cancelled(TokenstreamError):
    """The call was closed from this side, by `cancel()` or by closing the client."""

    default_code = "CANCELLED"


class Aborted(TokenstreamError):
    """The service gave the stream up for a cause on the caller's side.

    Reason ``"STREAM_STALLED"``: nothing was read for too long. ``"STREAM_TAKEN_OVER"``: another
    reader has resumed the stream.
    """

    default_code = "ABORTED"


class Internal(TokenstreamError):
    """The service could not complete the request. Trying again may help."""

    default_code = "INTERNAL"
