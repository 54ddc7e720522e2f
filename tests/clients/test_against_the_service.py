"""The client and the real service, over the scripted engine: what each relies on of the other."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from service.engine.scripted import ScriptedEngine
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.conftest import Serve
from tests.service.running import RunningService, eventually
from tokenstream_client import (
    AsyncClient,
    ClientOptions,
    DeadlineExceeded,
    Delta,
    Finished,
    FinishReason,
    InvalidRequest,
    NotFound,
    Unavailable,
)

PROMPT = "h\u00e9llo w\u00f6rld \u2014 " * 10


@pytest.fixture(params=[True, False], ids=["session", "calls"])
def options(request: pytest.FixtureRequest) -> ClientOptions:
    return ClientOptions(use_sessions=request.param, window_tokens=16, max_reconnect_delay=0.2)


@pytest.fixture
async def endless(serve: Serve) -> RunningService:
    """A service whose engine takes a step each millisecond."""
    return await serve(ScriptedEngine(step_s=0.001))


@pytest.fixture
async def client(endless: RunningService, options: ClientOptions) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(endless.target, options=options) as client:
        yield client


async def test_an_answer_is_whole_with_a_window_much_smaller_than_it(client: AsyncClient) -> None:
    stream = client.generate(PROMPT)
    assert "".join([text async for text in stream.text()]) == PROMPT
    assert stream.finished is not None
    assert stream.finished.usage.completion_tokens == stream.next_token_index


@pytest.mark.parametrize("way", ["loop", "cancel", "task", "client"])
async def test_a_reader_that_leaves_ends_the_work_on_the_engine(
    endless: RunningService, options: ClientOptions, way: str
) -> None:
    async with AsyncClient(endless.target, options=options) as client:
        stream = client.generate("x", ignore_eos=True, max_tokens=900)

        async def read(until: int) -> None:
            async for _ in stream:
                if stream.next_token_index >= until:
                    break

        match way:
            case "loop":
                await read(3)
            case "cancel":
                events = aiter(stream)
                await anext(events)
                stream.cancel()
            case "task":
                task = asyncio.create_task(read(10**6))
                await eventually(lambda: stream.next_token_index > 3)
                task.cancel()
                await asyncio.wait([task])
            case "client":
                events = aiter(stream)
                await anext(events)
        if way != "client":
            await eventually(lambda: endless.nothing_runs, within_s=2)
    await eventually(lambda: endless.nothing_runs, within_s=2)


async def test_a_request_left_before_its_start_ends_on_the_engine_too(
    endless: RunningService, client: AsyncClient
) -> None:
    for _ in range(5):
        stream = client.generate("x", ignore_eos=True, max_tokens=900)
        await asyncio.sleep(0)
        stream.cancel()
    await eventually(lambda: endless.nothing_runs, within_s=2)


async def test_stop_gives_what_was_decoded_and_its_end(
    endless: RunningService, client: AsyncClient
) -> None:
    stream = client.generate("x", ignore_eos=True, max_tokens=900)
    async for _ in stream:
        if stream.next_token_index == 5:
            await stream.stop()
    assert stream.finished is not None
    assert stream.finished.reason is FinishReason.CANCELLED
    assert stream.finished.usage.completion_tokens == stream.next_token_index


async def test_refusals_and_deadlines_come_as_their_errors(
    endless: RunningService, client: AsyncClient
) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        await anext(aiter(client.generate("Hi", temperature=5)))
    assert invalid.value.field_violations[0].field == "sampling.temperature"
    with pytest.raises(NotFound) as unknown:
        await anext(aiter(client.resume("nothing")))
    assert unknown.value.reason == "STREAM_NOT_FOUND"
    with pytest.raises(DeadlineExceeded):
        async for _ in client.generate("x", ignore_eos=True, max_tokens=900, timeout=0.1):
            pass
    await eventually(lambda: endless.nothing_runs, within_s=2)


async def answer_of(client: AsyncClient, prompt: str) -> str:
    stream, text, tokens = client.generate(prompt), "", 0
    async for event in stream:
        if isinstance(event, Delta):
            assert event.first_token_index == tokens
            tokens += len(event.token_ids)
            text += event.text
    assert isinstance(stream.finished, Finished)
    assert stream.finished.usage.completion_tokens == tokens
    return text


async def cut_now_and_then(proxy: TcpProxy) -> None:
    chance = random.Random(7)
    while True:
        await asyncio.sleep(chance.uniform(0.02, 0.15))
        proxy.cut()


async def test_answers_are_whole_over_a_connection_that_is_lost_all_the_time(
    serve: Serve, options: ClientOptions
) -> None:
    slow = await serve(ScriptedEngine(step_s=0.005))
    prompts = [f"{n}: {PROMPT}" for n in range(20)]
    options = ClientOptions(use_sessions=options.use_sessions, window_tokens=16, max_attempts=1000)
    async with (
        tcp_proxy(slow.target) as proxy,
        AsyncClient(proxy.target, options=options) as client,
    ):
        cutting = asyncio.create_task(cut_now_and_then(proxy))
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(answer_of(client, prompt) for prompt in prompts))
        cutting.cancel()
    assert answers == prompts
    assert proxy.connections > 3


async def test_a_service_that_was_restarted_has_lost_the_stream(
    serve: Serve, options: ClientOptions
) -> None:
    first = await serve(ScriptedEngine(step_s=0.001))
    async with (
        tcp_proxy(first.target) as proxy,
        AsyncClient(proxy.target, options=options) as client,
    ):
        events = aiter(client.generate("x", ignore_eos=True, max_tokens=900))
        await anext(events)
        second = await serve(ScriptedEngine(step_s=0.001))
        proxy.redirect(second.target)
        proxy.cut()
        with pytest.raises(Unavailable) as caught:
            async for _ in events:
                pass
        assert caught.value.reason == "STREAM_LOST"
