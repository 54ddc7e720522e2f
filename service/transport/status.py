"""The one place where an exception becomes a gRPC status, with `google.rpc` details.

Every status carries ErrorInfo (domain `tokenstream`, a stable reason); bad fields add BadRequest,
what can be tried again adds RetryInfo. An exception that is none of ours becomes INTERNAL without
its text, and goes to the log.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
import structlog
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from service.errors import (
    ActionMissing,
    BrokenOff,
    DeadlineExceeded,
    IdNotNew,
    IdUnknown,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PositionOutOfRange,
    RequestFailed,
    ServiceError,
    StreamNotFound,
    Unauthenticated,
    Unavailable,
)
from service.pipeline import is_being_cancelled

DOMAIN = "tokenstream"

# For a status to go out. gRPC sends it behind what the caller has not taken yet, so it can stay.
LAST_WORDS_S = 5.0

_T = TypeVar("_T")
_U = TypeVar("_U")

_log = structlog.get_logger(__name__)

_CODES: tuple[tuple[type[ServiceError], int], ...] = (
    (InvalidRequest, code_pb2.INVALID_ARGUMENT),
    (ModelNotFound, code_pb2.NOT_FOUND),
    (StreamNotFound, code_pb2.NOT_FOUND),
    (Unauthenticated, code_pb2.UNAUTHENTICATED),
    (PositionOutOfRange, code_pb2.OUT_OF_RANGE),
    (BrokenOff, code_pb2.ABORTED),
    (IdNotNew, code_pb2.ALREADY_EXISTS),
    (IdUnknown, code_pb2.NOT_FOUND),
    (ActionMissing, code_pb2.INVALID_ARGUMENT),
    (Overloaded, code_pb2.RESOURCE_EXHAUSTED),
    (Unavailable, code_pb2.UNAVAILABLE),
    (DeadlineExceeded, code_pb2.DEADLINE_EXCEEDED),
)


class StatusError(Exception):
    """Carries a finished status to the handler's edge, which gives it to gRPC."""

    def __init__(self, status: grpc.Status) -> None:
        """`status` as `grpcio-status` makes it, with its details in the trailing metadata."""
        super().__init__(status.details)
        self.status = status


def to_status(error: ServiceError) -> status_pb2.Status:
    """The rich status of an error."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), code_pb2.INTERNAL)
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidRequest):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=v.field, description=v.description
                    )
                    for v in error.violations
                ]
            )
        )
    if isinstance(error, Overloaded | Unavailable):
        delay = Duration()
        delay.FromMicroseconds(round(error.retry_after_s * 1e6))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return status_pb2.Status(code=code, message=str(error), details=[_packed(d) for d in details])


async def end_with(status: grpc.Status, context: "grpc.aio.ServicerContext[_T, _U]") -> None:
    """End a call with a status, without waiting for ever for a caller that takes nothing."""
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            await context.abort_with_status(status)
    except grpc.aio.AbortError:
        raise  # how gRPC says that it went out
    except TimeoutError:
        return
    except Exception as error:
        # gRPC cannot begin a status while the call's very first write is stuck.
        _log.debug("status_not_sent", error=repr(error))


@contextmanager
def status_boundary() -> Iterator[None]:
    """Raise every failure inside the block as `StatusError`; cancellation passes."""
    try:
        yield
    except ServiceError as error:
        failure = error
    except asyncio.CancelledError:
        if is_being_cancelled():
            raise  # by gRPC: the caller has gone
        # From anywhere else gRPC would swallow it, and the caller would wait for ever.
        _log.exception("handler_failed")
        failure = RequestFailed()
    except Exception:
        _log.exception("handler_failed")
        failure = RequestFailed()
    else:
        return
    raise StatusError(rpc_status.to_status(to_status(failure))) from failure


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
