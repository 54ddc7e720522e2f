"""From a failed gRPC call to the error tree. The only place that knows both."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
from google.rpc import (
    error_details_pb2,
    status_pb2,
)
from grpc_status import rpc_status

from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client.errors import (
    Aborted,
    Busy,
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    TokenstreamError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

_CLASSES: dict[grpc.StatusCode, type[TokenstreamError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Busy,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.INTERNAL: Internal,
    grpc.StatusCode.UNKNOWN: Internal,
    grpc.StatusCode.DATA_LOSS: Internal,
}

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

# What gRPC's core says, on either side, when it refuses a message by its size. It uses the same
# status as a full queue, without details; trying again later would never help.
_SIZE_REFUSAL = "message larger than max"


@contextmanager
def own_errors() -> Iterator[None]:
    """Raise this library's errors in place of gRPC's, around sync or async calls."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


def error_from_rpc(error: grpc.RpcError) -> TokenstreamError:
    """Turn what a failed call raised, sync or async, into this library's own error."""
    details = _details(error)
    return _error(error.code(), error.details() or "", details.details if details else ())


def error_from_failure(failure: pb.Failure) -> TokenstreamError:
    """Turn one request's failure in a session into the error that its own call would raise."""
    code = _CODES.get(failure.code, grpc.StatusCode.UNKNOWN)
    return _error(code, failure.message, failure.details)


def _error(code: grpc.StatusCode, message: str, details: Iterable[Any]) -> TokenstreamError:
    reason, violations, retry_after = "", tuple[FieldViolation, ...](), None
    for detail in details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad_request):
            violations = tuple(
                FieldViolation(v.field, v.description) for v in bad_request.field_violations
            )
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()

    error_class = _CLASSES.get(code, TokenstreamError)
    if error_class is Busy and not reason and _SIZE_REFUSAL in message.lower():
        error_class = TooLarge
    return error_class(
        message,
        code=code.name,
        reason=reason,
        field_violations=violations,
        retry_after=retry_after,
    )


def _details(error: grpc.RpcError) -> status_pb2.Status | None:
    try:
        # What gRPC raises has a call's methods, in both its APIs; their types do not say so.
        details: status_pb2.Status | None = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:
        # A proxy rewrote the status but let the details through: the status is what counts.
        return None
    return details
