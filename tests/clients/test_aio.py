"""The asyncio client against a real server."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from tests.clients.script import (
    STREAM_ID,
    Fail,
    answer,
    bad_fields,
    deltas,
    finished,
    reason,
    retry_in,
    started,
)
from tests.clients.scripted import ScriptedService, scripted_service
from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import (
    Aborted,
    AsyncClient,
    AsyncStream,
    Busy,
    Cancelled,
    Capability,
    ClientOptions,
    DeadlineExceeded,
    Delta,
    Event,
    FieldViolation,
    Finished,
    FinishReason,
    Internal,
    InvalidRequest,
    Model,
    NotFound,
    PermissionDenied,
    Started,
    Timings,
    TokenstreamError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Usage,
)


async def test_an_answer_arrives_as_events_in_order(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = answer("Hel", "lo")
    events = [event async for event in client.generate("Hi", client_request_id="r1")]
    assert events == [
        Started(STREAM_ID, "demo", prompt_tokens=3, client_request_id=""),
        Delta(0, 0, (100,), "Hel"),
        Delta(0, 1, (101,), "lo"),
        Finished(
            0,
            FinishReason.LENGTH,
            stop_string=None,
            stop_token_id=None,
            usage=Usage(prompt_tokens=3, completion_tokens=2, cached_prompt_tokens=0),
            timings=Timings(time_to_first_token=0.025, total=1.5),
        ),
    ]


async def test_text_yields_only_text_and_the_end_stays_readable(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = answer("Hel", "", "lo")
    stream = client.generate("Hi")
    assert [text async for text in stream.text()] == ["Hel", "lo"]
    assert stream.started is not None
    assert stream.started.stream_id == STREAM_ID
    assert stream.finished is not None
    assert stream.finished.usage.completion_tokens == 3


async def test_a_message_newer_than_the_library_is_skipped(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), pb.GenerateResponse(), *deltas("a"), finished(1)]
    kinds = [type(event) async for event in client.generate("Hi")]
    assert kinds == [Started, Delta, Finished]


async def test_a_finish_reason_newer_than_the_library_is_unknown(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), finished(reason=77)]  # type: ignore[arg-type]
    stream = client.generate("Hi")
    async for _ in stream:
        pass
    assert stream.finished is not None
    assert stream.finished.reason is FinishReason.UNKNOWN


async def leave_loop(stream: AsyncStream) -> None:
    async for event in stream:
        if isinstance(event, Delta):
            break


async def leave_text(stream: AsyncStream) -> None:
    async for _ in stream.text():
        break


async def leave_block(stream: AsyncStream) -> None:
    async with stream:
        await anext(aiter(stream))


async def close_iterator(stream: AsyncStream) -> None:
    events = aiter(stream)
    await anext(events)
    await events.aclose()


async def close_stream(stream: AsyncStream) -> None:
    events = aiter(stream)
    await anext(events)
    await stream.aclose()


async def cancel_task(stream: AsyncStream) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    while stream.started is None:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "leave", [leave_loop, leave_text, leave_block, close_iterator, close_stream, cancel_task]
)
async def test_a_reader_that_leaves_early_cancels_the_call_on_the_service(
    service: ScriptedService,
    client: AsyncClient,
    leave: Callable[[AsyncStream], asyncio.Future[None]],
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    kept = client.generate("Hi")  # gRPC cancels a call that is collected: not meant here
    await leave(kept)
    async with asyncio.timeout(1):
        await service.cancelled.wait()


async def test_a_stream_cancelled_beside_its_reader_raises_cancelled_and_leaves_the_task_alone(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), asyncio.Event()]
    stream = client.generate("Hi")
    events = aiter(stream)
    await anext(events)
    waiting = asyncio.create_task(anext(events))
    await asyncio.sleep(0)
    stream.cancel()
    with pytest.raises(Cancelled):
        await waiting
    assert waiting.cancelling() == 0
    await asyncio.wait_for(service.cancelled.wait(), 1)


async def test_closing_the_client_ends_its_streams(service: ScriptedService) -> None:
    service.script = [started(), asyncio.Event()]
    client = AsyncClient(service.target)
    events = aiter(client.generate("Hi"))
    await anext(events)
    await client.close()
    with pytest.raises(Cancelled):
        await anext(events)
    await asyncio.wait_for(service.cancelled.wait(), 1)


async def test_a_timeout_reaches_the_service_as_its_deadline_and_raises(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), asyncio.Event()]
    with pytest.raises(DeadlineExceeded) as caught:
        _ = [event async for event in client.generate("Hi", timeout=0.2)]
    assert caught.value.code == "DEADLINE_EXCEEDED"
    (deadline,) = service.deadlines
    assert deadline is not None
    assert 0 < deadline <= 0.2


async def collect_kinds(stream: AsyncStream, seen: list[type[Event]]) -> None:
    async for event in stream:
        seen.append(type(event))  # noqa: PERF401  # what came before a failure counts


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Busy),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, Cancelled),
        (grpc.StatusCode.ABORTED, Aborted),
        (grpc.StatusCode.INTERNAL, Internal),
        (grpc.StatusCode.UNKNOWN, Internal),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidRequest),
        (grpc.StatusCode.FAILED_PRECONDITION, TokenstreamError),
    ],
)
async def test_each_status_raises_its_error_after_what_was_delivered(
    service: ScriptedService,
    client: AsyncClient,
    code: grpc.StatusCode,
    error: type[TokenstreamError],
) -> None:
    service.script = [started(), *deltas("a"), Fail(code, "why", [reason("SOME_REASON")])]
    seen: list[type[Event]] = []
    with pytest.raises(TokenstreamError) as caught:
        await collect_kinds(client.generate("Hi"), seen)
    assert seen == [Started, Delta]
    assert type(caught.value) is error
    assert (caught.value.code, caught.value.reason) == (code.name, "SOME_REASON")
    assert caught.value.message == "why"
    assert str(caught.value) == f"{code.name} (SOME_REASON): why"


async def test_bad_fields_and_the_time_to_retry_are_on_the_error(
    service: ScriptedService, client: AsyncClient
) -> None:
    details = [bad_fields(sampling__top_p="must be above 0"), retry_in(2.5), reason("R")]
    service.script = [Fail(grpc.StatusCode.INVALID_ARGUMENT, "bad", details)]
    with pytest.raises(InvalidRequest) as caught:
        await anext(aiter(client.generate("Hi", top_p=0)))
    assert caught.value.field_violations == (FieldViolation("sampling.top_p", "must be above 0"),)
    assert caught.value.retry_after == 2.5


async def test_nobody_listening_is_unavailable_without_a_reason() -> None:
    async with scripted_service() as gone:
        pass
    async with AsyncClient(gone.target) as client:
        with pytest.raises(Unavailable) as caught:
            await anext(aiter(client.generate("Hi")))
        assert caught.value.reason == ""
        assert not await client.is_ready()


async def test_a_message_over_this_sides_limit_is_too_large_and_not_busy(
    service: ScriptedService,
) -> None:
    service.script = [started(), *deltas("x" * 5000), finished()]
    options = ClientOptions(max_message_bytes=4096)
    async with AsyncClient(service.target, options=options) as client:
        with pytest.raises(TooLarge):
            await anext(aiter(client.generate("x" * 5000)))
        with pytest.raises(TooLarge):
            _ = [event async for event in client.generate("Hi")]


async def test_a_message_over_the_services_limit_is_too_large(service: ScriptedService) -> None:
    options = ClientOptions(max_message_bytes=8 * 1024 * 1024)
    async with AsyncClient(service.target, options=options) as client:
        with pytest.raises(TooLarge):
            await anext(aiter(client.generate("x" * (5 * 1024 * 1024))))


async def test_cancel_names_the_stream(service: ScriptedService, client: AsyncClient) -> None:
    await client.cancel(STREAM_ID)
    assert service.cancelled_ids == [STREAM_ID]
    with pytest.raises(NotFound) as caught:
        await client.cancel("other")
    assert caught.value.reason == "STREAM_NOT_FOUND"


async def test_models_and_tokens(client: AsyncClient) -> None:
    model = Model("demo", 2048, 512, frozenset({Capability.TEXT_PROMPT}))
    assert await client.list_models() == (model,)
    assert await client.get_model() == model
    with pytest.raises(NotFound):
        await client.get_model("other")
    assert await client.tokenize("Hi") == (1, 72, 105)
    assert await client.tokenize("Hi", add_special_tokens=False) == (72, 105)
    assert await client.detokenize([72, 105]) == "Hi"


async def test_readiness_follows_the_services_health(
    service: ScriptedService, client: AsyncClient
) -> None:
    assert await client.is_ready()
    await service.set_serving(False)
    assert not await client.is_ready()


def test_a_client_outside_an_event_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        AsyncClient("127.0.0.1:1")
