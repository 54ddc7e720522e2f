import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import grpc
import pytest
import structlog
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service import errors
from service.errors import FieldViolation, ServiceError
from service.transport import status
from service.transport.status import answering, to_status

# Every error that can end a request, its code, and whether it says when to come back.
MAPPED: dict[ServiceError, tuple[int, bool]] = {
    ServiceError("anything"): (code_pb2.INTERNAL, False),
    errors.InvalidRequest((FieldViolation("text", "is empty"),)): (
        code_pb2.INVALID_ARGUMENT,
        False,
    ),
    errors.ModelNotFound("a", "b"): (code_pb2.NOT_FOUND, False),
    errors.Unauthenticated("no API key"): (code_pb2.UNAUTHENTICATED, False),
    errors.StreamNotFound(): (code_pb2.NOT_FOUND, False),
    errors.PositionOutOfRange(5, 3): (code_pb2.OUT_OF_RANGE, False),
    errors.BrokenOff("by whatever"): (code_pb2.ABORTED, False),
    errors.StreamStalled(30.0): (code_pb2.ABORTED, False),
    errors.StreamTakenOver(): (code_pb2.ABORTED, False),
    errors.SessionMisuse("of any kind"): (code_pb2.INTERNAL, False),
    errors.IdNotNew(3, 5): (code_pb2.ALREADY_EXISTS, False),
    errors.IdUnknown(3): (code_pb2.NOT_FOUND, False),
    errors.ActionMissing(): (code_pb2.INVALID_ARGUMENT, False),
    errors.Overloaded(4, 2.5): (code_pb2.RESOURCE_EXHAUSTED, True),
    errors.TooManySessions(4): (code_pb2.RESOURCE_EXHAUSTED, True),
    errors.Unavailable(): (code_pb2.UNAVAILABLE, True),
    errors.EngineLoading(): (code_pb2.UNAVAILABLE, True),
    errors.ServiceStopping(): (code_pb2.UNAVAILABLE, True),
    errors.EngineDead(): (code_pb2.UNAVAILABLE, True),
    errors.DeadlineExceeded(): (code_pb2.DEADLINE_EXCEEDED, False),
    errors.RequestFailed(): (code_pb2.INTERNAL, False),
}


def tree(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def details(status: status_pb2.Status) -> dict[str, Message]:
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
    )
    found: dict[str, Message] = {}
    for packed in status.details:
        for kind in kinds:
            message = kind()
            if packed.Unpack(message):
                found[kind.DESCRIPTOR.name] = message
    assert len(found) == len(status.details)
    return found


def test_every_class_of_the_error_tree_has_its_status_here() -> None:
    assert {type(error) for error in MAPPED} == set(tree(ServiceError))


@pytest.mark.parametrize("error", MAPPED, ids=lambda error: type(error).__name__)
def test_an_error_becomes_its_status_with_a_reason(error: ServiceError) -> None:
    code, retries = MAPPED[error]
    status = to_status(error)
    assert (status.code, status.message) == (code, str(error))
    found = details(status)
    assert found["ErrorInfo"] == error_details_pb2.ErrorInfo(
        reason=error.reason, domain="tokenstream"
    )
    assert ("RetryInfo" in found) is retries
    assert ("BadRequest" in found) is isinstance(error, errors.InvalidRequest)


def test_reasons_are_in_capitals_and_tell_errors_apart() -> None:
    families = (errors.BrokenOff, errors.SessionMisuse)  # only their children are raised
    reasons = [kind.reason for kind in tree(ServiceError) if kind not in families]
    assert len(set(reasons)) == len(reasons)
    assert all(reason.replace("_", "").isalpha() and reason.isupper() for reason in reasons)


def test_the_texts_say_what_the_caller_can_use() -> None:
    for error, words in (
        (errors.PositionOutOfRange(5, 3), ("5", "3 tokens")),
        (errors.IdNotNew(3, 5), ("id 3", "larger than 5")),
        (errors.IdUnknown(3), ("request 3",)),
        (errors.StreamStalled(0.5), ("0.5 s",)),
        (errors.ActionMissing(), ("start", "cancel", "credit", "resume", "close")),
    ):
        assert all(word in to_status(error).message for word in words)


def test_violations_keep_their_order_and_their_fields() -> None:
    violations = (FieldViolation("a.b[1]", "is bad"), FieldViolation("c", "is worse"))
    bad = details(to_status(errors.InvalidRequest(violations)))["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("a.b[1]", "is bad"),
        ("c", "is worse"),
    ]


def test_the_time_to_come_back_is_told_to_the_millisecond() -> None:
    retry = details(to_status(errors.Overloaded(4, 0.1234)))["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMicroseconds() == 123_400


class EndedCall:
    """As much of a `ServicerContext` as ends a call. `never_takes`: its caller."""

    def __init__(self, *, never_takes: bool = False) -> None:
        self.status: grpc.Status | None = None
        self._never_takes = never_takes

    async def abort_with_status(self, status: grpc.Status) -> None:
        self.status = status
        if self._never_takes:
            await asyncio.Event().wait()
        raise grpc.aio.AbortError


async def answer(work: Callable[[], Any], call: EndedCall | None = None) -> Any:
    """Have a handler do this much."""

    class Servicer:
        @answering
        async def Method(self, request: str, context: Any) -> Any:  # noqa: N802
            assert request == "request"
            return work()

    return await Servicer().Method("request", cast("Any", call or EndedCall()))


def failing_of(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


async def status_of(error: BaseException) -> grpc.Status:
    call = EndedCall()
    with pytest.raises(grpc.aio.AbortError):
        await answer(failing_of(error), call)
    assert call.status is not None
    return call.status


async def test_what_a_handler_returns_is_the_answer() -> None:
    assert await answer(lambda: "response") == "response"


async def test_an_exception_of_no_known_kind_is_internal_without_its_text_and_logged() -> None:
    with structlog.testing.capture_logs() as log:
        ended_with = await status_of(RuntimeError("the secret prompt"))
    assert ended_with.code is grpc.StatusCode.INTERNAL
    assert "secret" not in str(ended_with)
    assert [entry["event"] for entry in log] == ["handler_failed"]


async def test_an_expected_error_is_not_logged_as_a_failure() -> None:
    with structlog.testing.capture_logs() as log:
        ended_with = await status_of(errors.StreamNotFound())
    assert ended_with.code is grpc.StatusCode.NOT_FOUND
    assert log == []


@pytest.mark.parametrize("passing", [GeneratorExit, KeyboardInterrupt])
def test_what_ends_more_than_a_request_passes_as_it_is(passing: type[BaseException]) -> None:
    call = EndedCall()
    with pytest.raises(passing):
        answer(failing_of(passing()), call).send(None)
    assert call.status is None


async def test_a_cancellation_of_this_task_passes_as_it_is() -> None:
    call = EndedCall()

    def cancelled() -> None:
        task.cancel()
        raise asyncio.CancelledError

    task = asyncio.create_task(answer(cancelled, call))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert call.status is None


async def test_a_cancellation_from_elsewhere_is_a_failure() -> None:
    with structlog.testing.capture_logs() as log:
        ended_with = await status_of(asyncio.CancelledError())
    assert ended_with.code is grpc.StatusCode.INTERNAL
    assert [entry["event"] for entry in log] == ["handler_failed"]


async def test_what_a_handler_failed_of_does_not_outlive_it_with_its_calls_end() -> None:
    class Held:
        """What a frame of the handler's holds."""

    kept: list[weakref.ref[Held]] = []

    def fail() -> None:
        held = Held()
        kept.append(weakref.ref(held))
        raise errors.StreamNotFound

    with pytest.raises(grpc.aio.AbortError) as ended:
        await answer(fail)
    gc.collect()
    assert ended.value.__traceback__ is not None, "as gRPC keeps it"
    assert kept[0]() is None


async def test_a_caller_that_takes_nothing_is_not_waited_for_with_the_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status, "LAST_WORDS_S", 0.02)
    call = EndedCall(never_takes=True)
    async with asyncio.timeout(5):
        await answer(failing_of(errors.StreamNotFound()), call)
    assert call.status is not None


async def test_a_status_that_grpc_cannot_begin_is_let_be() -> None:
    class Stuck(EndedCall):
        async def abort_with_status(self, status: grpc.Status) -> None:
            raise RuntimeError("a write is under way")

    with structlog.testing.capture_logs() as log:
        await answer(failing_of(errors.StreamNotFound()), Stuck())
    assert [entry["event"] for entry in log] == ["status_not_sent"]
