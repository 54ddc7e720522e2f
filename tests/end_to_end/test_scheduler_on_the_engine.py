"""Readers that take nothing, on the real engine: it waits for them without work, and goes on."""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import psutil
import pytest
import pytest_asyncio

from service.app import Service
from service.domain import EngineCensus
from tests.contract.talk import Talk
from tests.service.running import Answer, eventually
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

RealService = Any  # lives in conftest, which is no importable module here

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(240),
]

PROMPT = "Tell me a story about a token."
LONG = 400  # tokens; the demo model has room for 1024
HIGH, LOW, FIRST = 256, 64, 64  # the marks, by default
PARKED = "tokenstream_scheduler_parked"
IDLE_S = 4.0
SPINS_S = 2.0  # vLLM's worker asks for work without a pause for a second after the last
WITHIN_S = 20.0


def request(seed: int, length: int = LONG, **stream: Any) -> pb.GenerateRequest:
    sampling = pb.SamplingOptions(ignore_eos=True, max_tokens=length, temperature=1.0, seed=seed)
    return pb.GenerateRequest(text=PROMPT, sampling=sampling, stream=pb.StreamOptions(**stream))


def parked(service: Service) -> float:
    return service.metrics.registry.get_sample_value(PARKED, {"blocks": "held"}) or 0.0


async def until_parked(service: Service, count: int) -> None:
    await eventually(lambda: parked(service) == count, within_s=WITHIN_S)


def engine_processes() -> list[psutil.Process]:
    """The engine's process and its workers."""
    engines = [psutil.Process(child.pid) for child in multiprocessing.active_children()]
    return [process for e in engines for process in (e, *e.children(recursive=True))]


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


@pytest_asyncio.fixture(loop_scope="session")
async def channel(real: RealService) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(real.address) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def talk(channel: grpc.aio.Channel) -> Talk:
    return Talk.over(channel)


async def whole_answer(channel: grpc.aio.Channel, asked: pb.GenerateRequest) -> Answer:
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    return await Answer().read(stub.Generate(asked))


async def test_an_engine_of_which_all_wait_for_their_readers_uses_no_processor(
    real: RealService, channel: grpc.aio.Channel, talk: Talk
) -> None:
    expected = await asyncio.gather(*(whole_answer(channel, request(n)) for n in range(4)))
    for seed in range(4):
        await talk.start(seed + 1, request(seed, credit=0 if seed else 10))
    for number in range(1, 5):
        await talk.started(number)
    await until_parked(real.service, 4)
    assert await real.service.engine.census() == EngineCensus(4, 0)

    processes = engine_processes()
    assert processes
    await asyncio.sleep(SPINS_S)
    began, used = time.monotonic(), cpu_s(processes)
    await asyncio.sleep(IDLE_S)  # the measurement itself
    share = (cpu_s(processes) - used) / (time.monotonic() - began)
    print(f"the engine's processes use {100 * share:.2f} % of a core while all are parked")

    # What is left is the polling of torch's two dozen gloo threads: 1 to 5 % as the machine goes. A
    # loop that does not sleep takes all of a core.
    assert share < 0.1
    # They stand at the mark: one reader has taken ten tokens, the others none.
    ahead = real.service.directory.tokens_ahead
    assert 4 * FIRST - 10 <= ahead <= 4 * (FIRST + 1)
    await talk.grant(dict.fromkeys(range(1, 5), LONG))
    for number in range(1, 5):
        got = await talk.answer(number)
        assert got.token_ids == expected[number - 1].token_ids
        assert got.text == expected[number - 1].text
    await talk.end()
    assert await real.until_engine_idle(2.0) == EngineCensus(0, 0)
    await until_parked(real.service, 0)


@pytest.mark.parametrize(
    "grants",
    [
        # The service says every 96 tokens how far a reader is: at 161, and not again at the mark.
        pytest.param([95, 161, HIGH, LONG], id="in three, of which one is told"),
        pytest.param([90, 180, HIGH, LONG], id="in three, evenly"),
        pytest.param([HIGH, LONG], id="in one"),
    ],
)
async def test_a_reader_that_has_taken_all_there_is_gets_more(
    real: RealService, channel: grpc.aio.Channel, talk: Talk, grants: list[int]
) -> None:
    expected = await whole_answer(channel, request(11))
    await talk.start(1, request(11, credit=0))
    await until_parked(real.service, 1)
    try:
        for limit in grants:
            # Up to the mark all is there: what is granted comes in one message.
            await talk.grant({1: limit})
            await talk.tokens(1, limit)
        assert (await talk.answer(1)).token_ids == expected.token_ids
    finally:
        talk.call.cancel()
    assert await real.until_engine_idle(2.0) == EngineCensus(0, 0)
    await until_parked(real.service, 0)


async def test_a_detached_stream_waits_at_its_mark_for_who_reads_it_on(
    real: RealService, channel: grpc.aio.Channel
) -> None:
    expected = await whole_answer(channel, request(21))
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    call = stub.Generate(request(21, on_disconnect=pb.ON_DISCONNECT_DETACH))
    begun = await Answer().read_tokens(call, 5)
    call.cancel()
    await until_parked(real.service, 1)
    assert real.service.directory.tokens_ahead <= LONG

    resume = pb.ResumeRequest(stream_id=begun.stream_id, next_token_index=0)
    got = await Answer().read(stub.Resume(resume))

    assert got.token_ids == expected.token_ids
    assert await real.until_engine_idle(2.0) == EngineCensus(0, 0)
    await until_parked(real.service, 0)


async def test_one_that_waits_for_its_reader_is_cancelled_at_once(
    real: RealService, talk: Talk
) -> None:
    await talk.start(1, request(31, credit=0))
    await talk.started(1)
    await until_parked(real.service, 1)
    await talk.cancel(1)
    assert await real.until_engine_idle(2.0) == EngineCensus(0, 0)
    await until_parked(real.service, 0)


async def test_an_engine_that_is_told_nothing_any_more_finishes_what_waited(
    real: RealService, talk: Talk
) -> None:
    # As if the service's side of the channel had failed: what is told gets lost.
    service = real.service
    await talk.start(1, request(41, credit=0))
    await talk.started(1)
    await until_parked(service, 1)
    sink = service.progress._sink

    class Broken:
        async def readers_moved(self, *told: Any) -> Any:
            raise RuntimeError("lost on the way")

    service.progress._sink = Broken()
    try:
        # `silence_s` is ten seconds, by default.
        assert await real.until_engine_idle(WITHIN_S) == EngineCensus(0, 0)
    finally:
        service.progress._sink = sink
    await talk.grant({1: LONG})
    assert len((await talk.answer(1)).token_ids) == LONG
    # And once it is heard again, it waits again.
    await until_parked(service, 0)
    await talk.start(2, request(42, credit=0))
    await until_parked(service, 1)
    await talk.cancel(2)
    assert await real.until_engine_idle(2.0) == EngineCensus(0, 0)
