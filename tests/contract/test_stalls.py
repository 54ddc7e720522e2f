"""Readers that take nothing: each is ended in time, all it held is free, nobody else notices."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.raw_caller import GENERATE, SESSION, RawCaller
from tests.contract.talk import Talk
from tests.service.running import Answer, Refusal, RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

STALL_LIMIT_S = 0.4
NO_DELAY = 0


def long_request(tokens: int = 400_000, *, detach: bool = False) -> pb.GenerateRequest:
    """More than any buffer between service and reader can hold, one token a message."""
    stream = pb.StreamOptions(max_delay_ms=NO_DELAY)
    if detach:
        stream.on_disconnect = pb.ON_DISCONNECT_DETACH
    sampling = pb.SamplingOptions(ignore_eos=True, max_tokens=tokens)
    return pb.GenerateRequest(text="ab", sampling=sampling, stream=stream)


@pytest.fixture
async def running(serve: Serve) -> RunningService:
    engine = ScriptedEngine(step_s=0.0, context_length=500_000)
    return await serve(engine, stall_limit_s=STALL_LIMIT_S, drain_grace_s=0)


Connect = Callable[..., Awaitable[RawCaller]]


@pytest.fixture
async def connect(running: RunningService) -> AsyncIterator[Connect]:
    callers: list[RawCaller] = []

    async def connected(*, window: int = 0, reads: bool = True) -> RawCaller:
        callers.append(await RawCaller.connect(running.target, window=window, reads=reads))
        return callers[-1]

    yield connected
    for caller in callers:
        await caller.close()


@asynccontextmanager
async def others(running: RunningService) -> AsyncIterator[None]:
    """Others who read all the while, on their own connection; each of their answers is exact."""
    stub = generation_pb2_grpc.GenerationServiceStub(running.connect())
    over = asyncio.Event()
    answered = 0

    async def read_alone(number: int) -> None:
        nonlocal answered
        while not over.is_set():
            text = f"reader {number}: \u20ac\U0001f600 " * (1 + number)
            got = await Answer().read(stub.Generate(pb.GenerateRequest(text=text)))
            assert got.text == text
            answered += 1

    async def read_in_a_session() -> None:
        nonlocal answered
        talk = Talk.over(running.connect())
        number = 0
        while not over.is_set():
            number += 1
            await talk.start(number, f"request {number}")
            assert (await talk.answer(number)).text == f"request {number}"
            answered += 1
        await talk.end()

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(read_alone(number))
        group.create_task(read_in_a_session())
        await eventually(lambda: answered > 10)
        yield
        before = answered
        await eventually(lambda: answered > before + 10)
        over.set()


async def test_a_reader_that_grants_no_window_is_ended_and_nobody_else_notices(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=0)
    async with others(running):
        caller.open(GENERATE, long_request().SerializeToString())
        await eventually(lambda: running.count(Outcome.STALLED) == 1)
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STALLED) + running.count(Outcome.STOP) == running.counted


async def test_a_reader_that_takes_nothing_off_its_socket_is_ended(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=2**31 - 1, reads=False)
    caller.grant(0, 2**30)
    async with others(running):
        for _ in range(50):  # together they fill the kernel's buffers soon
            caller.open(GENERATE, long_request().SerializeToString())
        await eventually(lambda: running.count(Outcome.STALLED) == 50, within_s=30)
    await eventually(lambda: running.idle)


async def test_a_reader_that_stalls_behind_the_streams_end_is_ended_too(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=0)
    caller.open(GENERATE, long_request(20_000).SerializeToString())
    await eventually(lambda: running.service.gate.held == 1)
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STALLED) == running.counted == 1


async def test_fifty_readers_on_one_connection_that_take_nothing_are_all_ended(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=0)
    request = long_request().SerializeToString()
    for _ in range(50):
        caller.open(GENERATE, request)
    await eventually(lambda: running.count(Outcome.STALLED) == 50, within_s=60)
    await eventually(lambda: running.idle)


async def test_a_reader_that_comes_back_too_late_gets_what_was_on_its_way_and_why_it_ended(
    running: RunningService,
) -> None:
    channel = running.connect(("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    call = stub.Generate(long_request())
    got = Answer()
    got.add(await anext(aiter(call)))
    await eventually(lambda: running.count(Outcome.STALLED) == 1)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await got.read(call)
    refused = Refusal.of(raised.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "STREAM_STALLED")
    assert got.text == ("ab" * len(got.token_ids))[: len(got.token_ids)]
    assert got.token_ids
    await eventually(lambda: running.idle)


async def test_a_reader_that_takes_a_byte_now_and_then_is_ended(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=0)
    async with others(running):
        stream = caller.open(GENERATE, long_request().SerializeToString())
        while not running.count(Outcome.STALLED):
            caller.grant(stream, 1)
            await asyncio.sleep(STALL_LIMIT_S / 4)
    assert 0 < caller.received[stream] < 1000
    await eventually(lambda: running.idle)


async def test_a_reader_that_is_slow_but_reads_gets_all_of_it(running: RunningService) -> None:
    channel = running.connect(("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    got = Answer()
    messages = 0
    async for message in stub.Generate(long_request(30_000)):
        got.add(message)
        messages += 1
        if messages % 1000 == 0:
            await asyncio.sleep(STALL_LIMIT_S / 4)
    assert got.text == "ab" * 15_000
    assert running.count(Outcome.LENGTH) == running.counted == 1


async def test_a_reader_that_resets_its_stalled_call_leaves_nothing(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=0)
    streams = [caller.open(GENERATE, long_request().SerializeToString()) for _ in range(5)]
    await eventually(lambda: running.service.gate.held == 5)
    async with others(running):
        for stream in streams:
            caller.reset(stream)
        await eventually(lambda: running.count(Outcome.DISCONNECTED) == 5)
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STALLED) == 0


async def test_a_detaching_stream_whose_reader_stalls_is_read_on_by_another(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=2000)
    request = long_request(450_000, detach=True)
    caller.open(GENERATE, request.SerializeToString())
    await eventually(lambda: running.service.directory.detached == 1)
    [stream_id] = running.engine.running_ids
    got = await Answer().read(running.resume(stream_id))
    assert got.text == "ab" * 225_000
    await eventually(lambda: running.nothing_runs)
    assert running.count(Outcome.LENGTH) == running.counted == 1


async def test_a_detaching_stream_that_ended_before_its_reader_stalled_counts_as_it_ended(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=0)
    caller.open(GENERATE, long_request(500, detach=True).SerializeToString())
    await eventually(lambda: running.counted == 1)
    assert running.count(Outcome.LENGTH) == 1
    assert running.service.directory.retained == 1


def session_start(number: int, request: pb.GenerateRequest) -> bytes:
    start = pb.SessionStart(id=number, request=request)
    return pb.SessionRequest(start=start).SerializeToString()


@pytest.mark.parametrize("half_closed", [False, True])
async def test_a_session_that_grants_no_window_is_ended_with_all_its_requests(
    running: RunningService, connect: Connect, half_closed: bool
) -> None:
    caller = await connect(window=0)
    async with others(running):
        starts = [session_start(number, long_request()) for number in range(1, 21)]
        caller.open(SESSION, *starts, last=half_closed)
        await eventually(lambda: running.count(Outcome.STALLED) == 20)
    await eventually(lambda: running.idle)
    assert running.count(Outcome.DISCONNECTED) == 0
    await eventually(lambda: running.service.generation_servicer.sessions_open == 0)


async def test_a_session_that_takes_nothing_off_its_socket_is_ended(
    running: RunningService, connect: Connect
) -> None:
    caller = await connect(window=2**31 - 1, reads=False)
    caller.grant(0, 2**30)
    starts = [session_start(number, long_request()) for number in range(1, 101)]
    caller.open(SESSION, *starts, last=False)
    await eventually(lambda: running.count(Outcome.STALLED) == 100, within_s=60)
    await eventually(lambda: running.idle)
    await eventually(lambda: running.service.generation_servicer.sessions_open == 0)


async def test_detaching_requests_of_a_stalled_session_are_read_on_elsewhere(serve: Serve) -> None:
    engine = ScriptedEngine(step_s=None, context_length=9_000)
    running = await serve(engine, stall_limit_s=STALL_LIMIT_S, drain_grace_s=0)
    caller = await RawCaller.connect(running.target, window=0)
    requests = [long_request(8_000, detach=True), long_request(8_000)] * 3
    starts = [session_start(number, request) for number, request in enumerate(requests, 1)]
    caller.open(SESSION, *starts, last=False)
    of_all = running.service.directory._running
    # Only a stream whose id was written can be asked for again.
    await eventually(lambda: len(of_all) == 6 and all(g.known for g in of_all.values()))
    ids = [g.stream_id for g in of_all.values() if g.resumable]
    for _ in range(8_000):
        engine.step()
    await eventually(lambda: running.nothing_runs, within_s=30)
    assert len(ids) == 3
    for stream_id in ids:
        assert (await Answer().read(running.resume(stream_id))).text == "ab" * 4_000
    assert running.count(Outcome.STALLED) + running.count(Outcome.LENGTH) == 6
    await caller.close()


async def test_a_request_whose_credit_is_spent_fails_in_its_session_and_the_others_go_on(
    running: RunningService,
) -> None:
    talk = Talk.over(running.channel)
    starved = long_request()
    starved.stream.credit = 10
    await talk.start(1, starved)
    await talk.start(2, long_request())
    failed = await talk.failure(1)
    assert (failed.code, failed.reason) == (grpc.StatusCode.ABORTED, "STREAM_STALLED")
    assert talk.told[1].answer.text == "ab" * 5
    count = talk.told[2].upto
    await talk.tokens(2, count + 1000)
    answer = talk.told[2].answer
    assert answer.text == ("ab" * answer.deltas[-1].first_token_index)[: len(answer.text)]
    await talk.cancel(2)
    await talk.answer(2)
    await talk.start(3, "abc")
    assert (await talk.answer(3)).text == "abc"
    await talk.end()
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STALLED) == 1


async def test_a_detaching_request_whose_credit_is_spent_stays_and_is_read_on(
    running: RunningService,
) -> None:
    talk = Talk.over(running.channel)
    request = long_request(5_000, detach=True)
    request.stream.credit = 7
    await talk.start(1, request)
    stream_id = await talk.started(1)
    assert (await talk.failure(1)).reason == "STREAM_STALLED"
    await talk.resume(2, stream_id, 7)
    assert (await talk.answer(2)).text == ("ab" * 2_500)[7:]
    await talk.end()


async def test_a_request_that_waits_for_its_delay_has_not_stalled(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=0.2), stall_limit_s=0.3)
    stream = pb.StreamOptions(max_delay_ms=1000)
    got = await Answer().read(running.generate(pb.GenerateRequest(text="abcdef", stream=stream)))
    assert got.text == "abcdef"


async def test_an_idle_session_is_not_ended(serve: Serve) -> None:
    running = await serve(stall_limit_s=0.1)
    talk = Talk.over(running.channel)
    await talk.start(1, "abc")
    await talk.answer(1)
    await asyncio.sleep(0.5)
    await talk.start(2, "def")
    assert (await talk.answer(2)).text == "def"
    await talk.end()


async def test_a_stream_whose_engine_is_slow_has_not_stalled(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=0.5), stall_limit_s=0.1)
    got = await Answer().read(running.generate("ab"))
    assert got.text == "ab"
