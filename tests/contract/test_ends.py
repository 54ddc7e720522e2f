import asyncio

import grpc
import pytest
import structlog

from service.app import ExitStatus
from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.service.running import Answer, Refusal, RunningService, eventually, refusal, started
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

ENDLESS = pb.GenerateRequest(
    text="ab", sampling=pb.SamplingOptions(ignore_eos=True, max_tokens=1000)
)


async def read_until_refused(call: object, got: Answer) -> Refusal:
    """Keep what comes before the failure."""
    try:
        await got.read(call)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError("the call did not fail")


async def test_cancel_from_another_connection_delivers_what_was_decoded_and_a_finish(
    stepped: RunningService,
) -> None:
    call = stepped.generate(ENDLESS)
    got = Answer()
    got.add(await anext(aiter(call)))
    for _ in range(5):
        stepped.engine.step()
    await eventually(lambda: stepped.service.demultiplexer.router.counts.tokens_routed == 5)
    elsewhere = generation_pb2_grpc.GenerationServiceStub(stepped.connect())
    await elsewhere.Cancel(pb.CancelRequest(stream_id=got.stream_id))
    await got.read(call)
    assert got.text == "ababa"
    assert got.end.reason == pb.FINISH_REASON_CANCELLED
    assert got.end.usage.completion_tokens == 5
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.CANCELLED) == stepped.counted == 1


async def test_cancel_before_the_first_token_ends_without_one(stepped: RunningService) -> None:
    call = stepped.generate(ENDLESS)
    got = Answer()
    got.add(await anext(aiter(call)))
    await stepped.cancel(got.stream_id)
    await got.read(call)
    assert got.token_ids == []
    assert not got.end.timings.HasField("time_to_first_token")


@pytest.mark.parametrize("stream_id", ["", "no such stream", "x" * 10_000])
async def test_cancel_of_an_unknown_stream_is_not_found_and_repeats_no_id(
    running: RunningService, stream_id: str
) -> None:
    cancel = running.generation.Cancel(pb.CancelRequest(stream_id=stream_id))
    refused = await refusal(cancel)
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == "STREAM_NOT_FOUND"
    assert not stream_id or stream_id not in refused.message


async def test_cancel_of_a_stream_that_has_ended_is_not_found(running: RunningService) -> None:
    got = await Answer().read(running.generate("a"))
    refused = await refusal(running.generation.Cancel(pb.CancelRequest(stream_id=got.stream_id)))
    assert refused.code is grpc.StatusCode.NOT_FOUND


async def test_closing_the_call_ends_the_decoding(stepped: RunningService) -> None:
    call = stepped.generate(ENDLESS)
    await started(call)
    stepped.engine.step()
    call.cancel()
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.DISCONNECTED) == stepped.counted == 1


async def test_closing_the_call_while_it_is_queued_takes_it_out(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None, max_running=1))
    first, queued = running.generate(ENDLESS), running.generate(ENDLESS)
    await started(first)
    await started(queued)
    assert (await running.engine.census()).waiting == 1
    queued.cancel()
    await eventually(lambda: len(running.engine.running_ids) == 1)
    running.engine.step()
    assert running.count(Outcome.DISCONNECTED) == 1


async def test_a_connection_that_is_lost_ends_all_its_streams(stepped: RunningService) -> None:
    channel = stepped.connect()
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    calls = [stub.Generate(ENDLESS) for _ in range(5)]
    for call in calls:
        await started(call)
    with structlog.testing.capture_logs() as log:
        await channel.close()
        await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.DISCONNECTED) == 5
    assert {entry["event"] for entry in log} == {"request_ended"}


async def test_a_reader_that_goes_in_the_middle_of_the_writing_is_no_failure(
    running: RunningService,
) -> None:
    with structlog.testing.capture_logs() as log:
        for _ in range(20):
            call = running.generate(ENDLESS)
            await started(call)
            call.cancel()
        await eventually(lambda: running.counted == 20)
    # One may have come to its end before the cancellation arrived.
    assert running.count(Outcome.DISCONNECTED) + running.count(Outcome.LENGTH) == 20
    assert {entry["event"] for entry in log} == {"request_ended"}


async def test_the_deadline_of_a_running_request_ends_it(stepped: RunningService) -> None:
    call = stepped.generate(ENDLESS, timeout=0.5)
    got = Answer()
    got.add(await anext(aiter(call)))
    stepped.engine.step()
    refused = await read_until_refused(call, got)
    assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert got.text == "a"
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.DEADLINE) == stepped.counted == 1


async def test_the_deadline_of_a_queued_request_takes_it_out_and_leaves_the_running_one(
    serve: Serve,
) -> None:
    running = await serve(ScriptedEngine(step_s=None, max_running=1))
    first = running.generate("ab")
    first_id = await started(first)
    refused = await refusal(running.generate(ENDLESS, timeout=0.1))
    assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: running.engine.running_ids == [first_id])
    for _ in range(3):
        running.engine.step()
    async for message in first:
        last = message
    assert last.finished.reason == pb.FINISH_REASON_STOP
    assert running.count(Outcome.DEADLINE) == 1


async def test_a_request_that_the_engine_fails_fails_alone_and_says_nothing_of_the_inside(
    stepped: RunningService,
) -> None:
    calls = [stepped.generate("ab") for _ in range(3)]
    answers = [Answer() for _ in calls]
    for call, got in zip(calls, answers, strict=True):
        got.add(await anext(aiter(call)))
    stepped.engine.step()
    stepped.engine.break_request(answers[1].stream_id)
    for _ in range(3):
        stepped.engine.step()
    refused = await read_until_refused(calls[1], answers[1])
    assert refused.code is grpc.StatusCode.INTERNAL
    assert refused.reason == "ENGINE_FAILED"
    assert refused.message == "the engine could not complete this request"
    assert answers[1].text == "a"
    for call, got in (calls[0], answers[0]), (calls[2], answers[2]):
        await got.read(call)
        assert got.text == "ab"
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.FAILED) == 1
    assert stepped.count(Outcome.STOP) == 2


async def test_a_failure_of_our_own_says_nothing_of_the_inside_either(
    running: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret prompt")

    monkeypatch.setattr(running.engine, "render", broken)
    with structlog.testing.capture_logs() as log:
        refused = await refusal(running.generate("ab"))
    assert refused.code is grpc.StatusCode.INTERNAL
    assert refused.reason == "ENGINE_FAILED"
    assert "secret" not in refused.message
    assert [entry["event"] for entry in log] == ["request_failed", "request_ended"]
    assert running.count(Outcome.FAILED) == running.counted == 1


async def test_the_engines_death_ends_every_stream_and_the_service(
    stepped: RunningService,
) -> None:
    calls = [stepped.generate(ENDLESS) for _ in range(5)]
    answers = [Answer() for _ in calls]
    for call, got in zip(calls, answers, strict=True):
        got.add(await anext(aiter(call)))
    stepped.engine.step()
    stepped.engine.die()
    for call, got in zip(calls, answers, strict=True):
        refused = await read_until_refused(call, got)
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert refused.reason == "ENGINE_DEAD"
        assert refused.retry_after_s == 5.0
        assert got.text == "a"
    async with asyncio.timeout(5):
        assert await stepped.running is ExitStatus.ENGINE_DIED
    assert stepped.count(Outcome.UNAVAILABLE) == stepped.counted == 5


async def test_the_engines_death_without_streams_ends_the_service_too(
    running: RunningService,
) -> None:
    running.engine.die()
    async with asyncio.timeout(5):
        assert await running.running is ExitStatus.ENGINE_DIED


async def test_a_slow_reader_loses_nothing_and_holds_up_nobody(running: RunningService) -> None:
    slow = running.generate(ENDLESS)
    got = Answer()
    got.add(await anext(aiter(slow)))
    quick = [await Answer().read(running.generate("abc")) for _ in range(20)]
    assert all(answer.text == "abc" for answer in quick)
    await got.read(slow)
    assert got.text == "ab" * 500
