"""Requests that are sent again before their first event, and those that are not."""

import asyncio
import time
from collections.abc import Callable

import grpc
import pytest

from tests.clients.script import Fail, Step, answer, deltas, reason, retry_in, started
from tests.clients.scripted import ScriptedService, scripted_service
from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import (
    AsyncClient,
    Busy,
    ClientOptions,
    Delta,
    Event,
    TokenstreamError,
    Unavailable,
)
from tokenstream_client.backoff import FIRST_WAIT, backoff

BUSY = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", [reason("FULL"), retry_in(0.01)])
LOADING = Fail(grpc.StatusCode.UNAVAILABLE, "loading", [reason("ENGINE_LOADING")])


@pytest.fixture(params=[True, False], ids=["session", "calls"])
def options(request: pytest.FixtureRequest) -> ClientOptions:
    return ClientOptions(use_sessions=request.param, max_reconnect_delay=0.05)


def failing(times: int, failure: Fail) -> Callable[[pb.GenerateRequest], list[Step]]:
    left = times

    def script(request: pb.GenerateRequest) -> list[Step]:
        nonlocal left
        left -= 1
        return [failure] if left >= 0 else answer("a")

    return script


async def text(client: AsyncClient, **options: float) -> str:
    stream = client.generate("Hi", timeout=options.get("timeout"))
    return "".join([text async for text in stream.text()])


async def collect(client: AsyncClient, seen: list[Event]) -> None:
    async for event in client.generate("Hi"):
        seen.append(event)  # noqa: PERF401  # what came before a failure counts


@pytest.mark.parametrize("failure", [BUSY, LOADING])
async def test_a_request_that_is_put_off_is_sent_again_until_it_is_taken(
    service: ScriptedService, options: ClientOptions, failure: Fail
) -> None:
    service.script = failing(3, failure)
    async with AsyncClient(service.target, options=options) as client:
        assert await text(client) == "a"
    assert len(service.requests) == 4


@pytest.mark.parametrize("attempts", [1, 3])
async def test_after_the_last_attempt_the_refusal_is_raised(
    service: ScriptedService, options: ClientOptions, attempts: int
) -> None:
    service.script = [BUSY]
    options = ClientOptions(
        use_sessions=options.use_sessions, max_reconnect_delay=0.05, max_attempts=attempts
    )
    async with AsyncClient(service.target, options=options) as client:
        with pytest.raises(Busy) as caught:
            await text(client)
    assert caught.value.reason == "FULL"
    assert len(service.requests) == attempts


@pytest.mark.parametrize(
    "failure",
    [
        Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "no time named", [reason("FULL")]),
        Fail(grpc.StatusCode.INVALID_ARGUMENT, details=[reason("R")]),
        Fail(grpc.StatusCode.INTERNAL, details=[reason("R")]),
        Fail(grpc.StatusCode.ABORTED, details=[reason("R")]),
        Fail(grpc.StatusCode.DEADLINE_EXCEEDED, details=[reason("R")]),
    ],
)
async def test_other_failures_are_raised_at_once(
    service: ScriptedService, options: ClientOptions, failure: Fail
) -> None:
    service.script = [failure]
    async with AsyncClient(service.target, options=options) as client:
        with pytest.raises(TokenstreamError) as caught:
            await text(client)
    assert caught.value.code == failure.code.name
    assert len(service.requests) == 1


@pytest.mark.parametrize("failure", [BUSY, LOADING])
@pytest.mark.parametrize("before", [[started()], [started(), *deltas("a")]])
async def test_after_an_event_nothing_is_sent_again(
    service: ScriptedService, options: ClientOptions, failure: Fail, before: list[Step]
) -> None:
    service.script = [*before, failure]
    seen: list[Event] = []
    async with AsyncClient(service.target, options=options) as client:
        with pytest.raises(TokenstreamError) as caught:
            await collect(client, seen)
    assert caught.value.message == failure.message
    assert len(seen) == len(before)
    assert len(service.requests) == 1


async def test_the_services_time_to_come_back_is_waited_for(
    service: ScriptedService, options: ClientOptions
) -> None:
    put_off = Fail(grpc.StatusCode.UNAVAILABLE, "later", [reason("R"), retry_in(0.3)])
    service.script = failing(1, put_off)
    async with AsyncClient(service.target, options=options) as client:
        began = time.monotonic()
        assert await text(client) == "a"
    assert time.monotonic() - began >= 0.3


async def test_a_wait_beyond_the_timeout_is_not_begun(
    service: ScriptedService, options: ClientOptions
) -> None:
    details = [reason("FULL"), retry_in(60)]
    service.script = [Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details)]
    async with AsyncClient(service.target, options=options) as client, asyncio.timeout(5):
        with pytest.raises(Busy):
            await text(client, timeout=10)
    assert len(service.requests) == 1


async def test_each_attempt_has_what_is_left_of_the_timeout(
    service: ScriptedService, options: ClientOptions
) -> None:
    put_off = Fail(grpc.StatusCode.UNAVAILABLE, "later", [reason("R"), retry_in(0.3)])
    service.script = failing(1, put_off)
    async with AsyncClient(service.target, options=options) as client:
        await text(client, timeout=10)
    first, second = service.deadlines
    assert first is not None
    assert second is not None
    assert second <= first - 0.29


async def test_a_stream_left_while_it_waits_for_another_attempt_is_not_sent_again(
    service: ScriptedService, options: ClientOptions
) -> None:
    put_off = Fail(grpc.StatusCode.UNAVAILABLE, "later", [reason("R"), retry_in(0.2)])
    service.script = failing(1, put_off)
    async with AsyncClient(service.target, options=options) as client:
        stream = client.generate("Hi")
        reading = asyncio.create_task(anext(aiter(stream)))
        await service.arrived.wait()
        reading.cancel()
        await asyncio.wait([reading])
        await asyncio.sleep(0.3)  # the attempt that must not come
    assert len(service.requests) == 1


async def test_nobody_listening_is_tried_so_often(options: ClientOptions) -> None:
    async with scripted_service() as gone:
        pass
    async with AsyncClient(gone.target, options=options) as client:
        with pytest.raises(Unavailable) as caught:
            await text(client)
    assert caught.value.reason == ""


def test_waits_double_up_to_the_longest_and_spread_over_a_half() -> None:
    def never() -> float:
        return 0.0

    def most() -> float:
        return 1.0

    whole = [backoff(n, 5.0, draw=never) for n in range(1, 9)]
    assert whole == [FIRST_WAIT * 2**n for n in range(6)] + [5.0, 5.0]
    assert backoff(3, 5.0, draw=most) == whole[2] / 2
    assert backoff(10_000, 5.0, draw=never) == 5.0


async def test_a_delta_is_never_delivered_twice_by_a_retry(
    service: ScriptedService, options: ClientOptions
) -> None:
    service.script = failing(2, LOADING)
    async with AsyncClient(service.target, options=options) as client:
        events = [event async for event in client.generate("Hi")]
    assert [type(event) for event in events].count(Delta) == 1
