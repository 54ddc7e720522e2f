import asyncio

import grpc

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import Answer, RunningService, eventually, refusal, started
from tokenstream.v1 import generation_pb2 as pb


def detaching(text: str, time_to_live_ms: int | None = None) -> pb.GenerateRequest:
    stream = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH)
    if time_to_live_ms is not None:
        stream.time_to_live_ms = time_to_live_ms
    return pb.GenerateRequest(text=text, stream=stream)


async def is_gone(running: RunningService, stream_id: str) -> None:
    refused = await refusal(running.resume(stream_id))
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == "STREAM_NOT_FOUND"


async def test_a_finished_stream_can_be_read_until_its_time_is_over(serve: Serve) -> None:
    running = await serve(detached_ttl_s=0.4)
    got = await Answer().read(running.generate(detaching("abc")))
    for _ in range(3):
        again = await Answer().read(running.resume(got.stream_id))
        assert (again.text, again.end) == ("abc", got.end)
    assert running.service.directory.retained == 1
    await eventually(lambda: running.idle)
    await is_gone(running, got.stream_id)
    assert running.count(Outcome.STOP) == running.counted == 1


async def test_reading_again_lets_the_time_begin_anew(serve: Serve) -> None:
    running = await serve(detached_ttl_s=0.5)
    got = await Answer().read(running.generate(detaching("abc")))
    loop = asyncio.get_running_loop()
    until = loop.time() + 1.5
    while loop.time() < until:  # three times as long as it lives by itself
        assert (await Answer().read(running.resume(got.stream_id))).text == "abc"
    await eventually(lambda: running.idle)


async def test_a_detached_stream_that_nobody_reads_on_is_ended_and_counted(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), detached_ttl_s=0.3)
    call = running.generate(detaching("abc"))
    stream_id = await started(call)
    running.engine.step()
    await eventually(lambda: running.tokens_routed == 1)
    call.cancel()
    await eventually(lambda: running.service.directory.detached == 1)
    assert running.engine.running_ids
    await eventually(lambda: running.idle)
    await is_gone(running, stream_id)
    assert running.count(Outcome.EXPIRED) == running.counted == 1


async def test_a_request_of_its_own_shorter_time_is_forgotten_first(serve: Serve) -> None:
    running = await serve(detached_ttl_s=5)
    short = await Answer().read(running.generate(detaching("short", 1)))
    long = await Answer().read(running.generate(detaching("long")))
    await eventually(lambda: running.service.directory.retained == 1)
    await is_gone(running, short.stream_id)
    assert (await Answer().read(running.resume(long.stream_id))).text == "long"


async def test_no_request_lives_longer_than_the_service_lets_it(serve: Serve) -> None:
    running = await serve(detached_ttl_s=0.2, max_detached_ttl_s=0.4)
    await Answer().read(running.generate(detaching("abc", 2**32 - 1)))
    await eventually(lambda: running.idle, within_s=5)


async def test_a_stream_that_finishes_detached_has_its_whole_time_from_then_on(
    serve: Serve,
) -> None:
    running = await serve(ScriptedEngine(step_s=None), detached_ttl_s=1.0)
    call = running.generate(detaching("abc"))
    stream_id = await started(call)
    call.cancel()
    await eventually(lambda: running.service.directory.detached == 1)
    loop = asyncio.get_running_loop()
    left_at = loop.time()
    await asyncio.sleep(0.6)  # more than half of its time
    while running.engine.running_ids:
        running.engine.step()
    await eventually(lambda: running.service.directory.retained == 1)
    await eventually(lambda: running.idle)
    assert loop.time() - left_at >= 1.5
    assert running.count(Outcome.STOP) == running.counted == 1
    await is_gone(running, stream_id)


async def test_a_stream_with_a_reader_outlives_its_time(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), detached_ttl_s=0.2)
    call = running.generate(detaching("abc"))
    stream_id = await started(call)
    call.cancel()
    await eventually(lambda: running.service.directory.detached == 1)
    resumed = running.resume(stream_id)
    await started(resumed)
    await asyncio.sleep(0.6)
    while running.engine.running_ids:
        running.engine.step()
    got = await Answer(started=pb.Started()).read(resumed)
    assert got.text == "abc"


async def test_of_finished_streams_the_oldest_are_forgotten_first(serve: Serve) -> None:
    running = await serve(max_retained_streams=3)
    got = [await Answer().read(running.generate(detaching(f"no {n}"))) for n in range(8)]
    assert running.service.directory.retained == 3
    for answer in got[:5]:
        await is_gone(running, answer.stream_id)
    for number, answer in enumerate(got[5:], 5):
        assert (await Answer().read(running.resume(answer.stream_id))).text == f"no {number}"


async def test_a_service_that_keeps_nothing_ends_streams_well(serve: Serve) -> None:
    running = await serve(max_retained_streams=0)
    got = await Answer().read(running.generate(detaching("abc")))
    assert got.text == "abc"
    await is_gone(running, got.stream_id)
    await eventually(lambda: running.idle)


async def test_detached_streams_hold_their_places_until_they_end(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=2, detached_ttl_s=0.5)
    talk = Talk.over(running.channel)
    for number in (1, 2):
        await talk.start(number, detaching("abc"))
        await talk.started(number)
        await talk.close(number)
    await eventually(lambda: running.service.directory.detached == 2)
    assert (await refusal(running.generate("x"))).reason == "TOO_MANY_STREAMS"
    await eventually(lambda: running.idle)
    call = running.generate("x")
    await started(call)


async def test_many_detached_streams_expire_and_leave_nothing(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=0.01), detached_ttl_s=0.5)
    talk = Talk.over(running.channel)
    for number in range(1, 201):
        await talk.start(number, detaching("x" * 400))
    await talk.started(200)
    talk.call.cancel()
    await eventually(lambda: running.service.directory.detached == 200)
    await eventually(lambda: running.idle)
    assert running.count(Outcome.EXPIRED) == running.counted == 200
