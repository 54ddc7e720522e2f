"""The one place where an exception becomes a gRPC status, with `google.rpc` details.

Every status carries ErrorInfo (domain `tokenstream`, a stable reason); bad fields add BadRequest,
what can be tried again adds RetryInfo. An exception that is none of ours becomes INTERNAL without
its text, and goes to the log.
"""

import asyncio
import functools
import typing
from collections.abc import Callable, Coroutine
from typing import TypeAlias, TypeVar, cast

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

_S = TypeVar("_S")
_Q = TypeVar("_Q")
_R = TypeVar("_R")
_Context: TypeAlias = "grpc.aio.ServicerContext[typing.Any, typing.Any]"
_Handler = Callable[[_S, _Q, _Context], Coroutine[typing.Any, typing.Any, _R]]

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


def answering(handler: _Handler[_S, _Q, _R]) -> _Handler[_S, _Q, _R]:
    """Have what a handler fails of end its call with a status; a cancellation of its task passes.

    The status goes out when the handler's frames are gone. gRPC's loop keeps the abort of the call
    that came last until the next comes, and with it all that its traceback leads to.
    """

    @functools.wraps(handler)
    async def answered(servicer: _S, request: _Q, context: _Context) -> _R:
        try:
            return await handler(servicer, request, context)
        except ServiceError as error:
            status = to_status(error)
        except asyncio.CancelledError:
            if is_being_cancelled():
                raise  # by gRPC: the caller has gone
            # From anywhere else gRPC would swallow it, and the caller would wait for ever.
            _log.exception("handler_failed")
            status = to_status(RequestFailed())
        except Exception:
            _log.exception("handler_failed")
            status = to_status(RequestFailed())
        return cast("_R", await _end(rpc_status.to_status(status), context))

    return answered


async def _end(status: grpc.Status, context: _Context) -> None:
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


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
