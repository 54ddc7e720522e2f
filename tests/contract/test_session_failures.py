import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest

from service.app import ExitStatus
from service.engine.scripted import ScriptedEngine
from service.session.session import MOST_NOTICES
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.talk import Talk, Told
from tests.contract.test_refusals import BAD_FIELDS
from tests.service.running import Answer, Refusal, RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb

ENDLESS = pb.GenerateRequest(
    text="ab", sampling=pb.SamplingOptions(ignore_eos=True, max_tokens=1000)
)


@pytest.fixture
async def talk(running: RunningService) -> Talk:
    return Talk.over(running.channel)


async def test_bad_fields_fail_their_requests_by_name_and_the_others_go_on(
    running: RunningService, talk: Talk
) -> None:
    fields = {}
    for number, (request, field) in enumerate(BAD_FIELDS.values(), 1):
        await talk.start(2 * number, request)
        await talk.start(2 * number + 1, f"request {number}")
        fields[2 * number] = field
    await talk.end()
    for number, field in fields.items():
        failed = talk.told[number].failed
        assert failed is not None
        assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
        assert failed.reason == "INVALID_REQUEST"
        assert failed.fields == (field,)
        assert talk.told[number].answer.started is None
        assert talk.told[number + 1].answer.text == f"request {number // 2}"
    assert running.engine.submitted == len(fields)
    await eventually(lambda: running.idle)
    assert running.count(Outcome.REFUSED) == running.count(Outcome.STOP) == len(fields)
    assert running.counted == 2 * len(fields)


@pytest.mark.parametrize(
    ("stream", "field"),
    [
        (pb.StreamOptions(time_to_live_ms=100), "stream.time_to_live_ms"),
        (
            pb.StreamOptions(time_to_live_ms=0, on_disconnect=pb.ON_DISCONNECT_DETACH),
            "stream.time_to_live_ms",
        ),
        (pb.StreamOptions(max_tokens_per_message=1025), "stream.max_tokens_per_message"),
    ],
)
async def test_bad_options_of_delivery_fail_the_request_alone(
    talk: Talk, stream: pb.StreamOptions, field: str
) -> None:
    await talk.start(1, pb.GenerateRequest(text="a", stream=stream))
    failed = await talk.failure(1)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == (field,)
    await talk.end()


async def test_credit_outside_a_session_is_a_bad_field(running: RunningService) -> None:
    request = pb.GenerateRequest(text="a", stream=pb.StreamOptions(credit=1))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in running.generate(request):
            pass
    assert Refusal.of(raised.value).fields == ("stream.credit",)


async def test_an_unknown_model_fails_the_request_alone(talk: Talk) -> None:
    await talk.start(1, pb.GenerateRequest(model="gpt-5", text="x"))
    failed = await talk.failure(1)
    assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    await talk.end()


async def test_too_large_a_request_fails_alone_with_the_limit(serve: Serve) -> None:
    running = await serve(ScriptedEngine(context_length=1 << 16), max_request_bytes=10_240)
    talk = Talk.over(running.channel)
    await talk.start(1, "x" * 11_000)
    failed = await talk.failure(1)
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.fields == ("",)
    await talk.start(2, "abc")
    assert (await talk.answer(2)).text == "abc"
    await talk.end()


async def test_a_timeout_fails_its_request_in_the_session_and_no_other(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.channel)
    await talk.start(1, ENDLESS, timeout_s=0.2)
    await talk.start(2, "abc")
    await talk.started(2)
    stepped.engine.step()
    failed = await talk.failure(1)
    assert (failed.code, failed.reason) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
    )
    assert talk.told[1].answer.text == "a"
    await eventually(lambda: len(stepped.engine.running_ids) == 1)
    for _ in range(3):
        stepped.engine.step()
    assert (await talk.answer(2)).text == "abc"
    await talk.end()
    assert stepped.count(Outcome.DEADLINE) == 1


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 1e-6])
async def test_a_timeout_that_is_over_fails_the_request(talk: Talk, timeout_s: float) -> None:
    await talk.start(1, ENDLESS, timeout_s=timeout_s)
    assert (await talk.failure(1)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await talk.end()


@pytest.mark.parametrize("seconds", [315_576_000_000, 2**63 - 1, -(2**63)])
async def test_a_timeout_far_outside_of_time_harms_nobody(
    running: RunningService, talk: Talk, seconds: int
) -> None:
    await talk.start(2, "before")
    start = pb.SessionStart(id=3, request=pb.GenerateRequest(text="abc"))
    start.timeout.seconds = seconds
    talk.told[3] = Told(Answer())
    await talk.call.write(pb.SessionRequest(start=start))
    await talk.start(4, "behind")
    await talk.end()
    assert talk.told[2].answer.text == "before"
    assert talk.told[4].answer.text == "behind"
    failed = talk.told[3].failed
    if seconds > 0 and failed is None:
        assert talk.told[3].answer.text == "abc"
    else:
        assert failed is not None
        assert failed.code in (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.INVALID_ARGUMENT,
        )
    await eventually(lambda: running.idle)


async def test_an_overload_fails_the_request_with_when_to_come_back(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=2)
    talk = Talk.over(running.channel)
    for number in (1, 2, 3):
        await talk.start(number, ENDLESS)
    failed = await talk.failure(3)
    assert (failed.code, failed.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_STREAMS",
    )
    assert failed.retry_after_s == 1.0
    await talk.cancel(1)
    await talk.answer(1)
    await eventually(lambda: running.service.gate.held == 1)
    await talk.start(4, ENDLESS)
    await talk.started(4)
    assert running.count(Outcome.OVERLOADED) == 1


async def test_a_request_that_the_engine_fails_fails_alone(stepped: RunningService) -> None:
    talk = Talk.over(stepped.channel)
    for number in (1, 2, 3):
        await talk.start(number, "ab")
        await talk.started(number)
    stepped.engine.step()
    stepped.engine.break_request(talk.told[2].answer.stream_id)
    for _ in range(3):
        stepped.engine.step()
    failed = await talk.failure(2)
    assert (failed.code, failed.reason) == (grpc.StatusCode.INTERNAL, "ENGINE_FAILED")
    assert failed.message == "the engine could not complete this request"
    assert talk.told[2].answer.text == "a"
    for number in (1, 3):
        assert (await talk.answer(number)).text == "ab"
    await talk.end()


async def test_a_failure_is_told_also_without_credit(stepped: RunningService) -> None:
    talk = Talk.over(stepped.channel)
    request = pb.GenerateRequest(text="ab", stream=pb.StreamOptions(credit=0))
    await talk.start(1, request)
    stream_id = await talk.started(1)
    stepped.engine.step()
    stepped.engine.break_request(stream_id)
    stepped.engine.step()
    assert (await talk.failure(1)).reason == "ENGINE_FAILED"
    assert talk.told[1].upto == 0
    await talk.end()


async def test_in_a_drain_sessions_finish_what_runs_and_fail_what_is_new(
    stepped: RunningService,
) -> None:
    talk, idle = Talk.over(stepped.channel), Talk.over(stepped.channel)
    await talk.start(1, "abc")
    await talk.started(1)
    await idle.start(1, "x")
    await idle.started(1)
    await idle.cancel(1)
    await idle.answer(1)
    stepped.service.stop()
    await eventually(lambda: not is_open(stepped))
    await talk.start(2, "late")
    failed = await talk.failure(2)
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_STOPPING")
    for _ in range(4):
        stepped.engine.step()
    assert (await talk.answer(1)).text == "abc"
    async with asyncio.timeout(5):
        assert await stepped.running is ExitStatus.OK
    # Nothing runs in them any more: the service ends, and so do they.
    for session in (talk, idle):
        assert await code_of(session.call) is not grpc.StatusCode.OK


async def code_of(call: Any) -> grpc.StatusCode:
    """Read a session to its end, whatever that is."""
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        while await call.read() is not grpc.aio.EOF:
            pass
    code = await call.code()
    assert isinstance(code, grpc.StatusCode)
    return code


def is_open(running: RunningService) -> bool:
    try:
        running.service.gate.check_open()
    except Exception:
        return False
    return True


async def test_with_the_grace_over_the_requests_of_a_session_fail_in_it(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), drain_grace_s=0)
    talk = Talk.over(running.channel)
    for number in range(1, 11):
        await talk.start(number, ENDLESS)
    await talk.started(10)
    running.engine.step()
    await talk.tokens(10, 1)
    running.service.stop()
    for number in range(1, 11):
        failed = await talk.failure(number)
        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_STOPPING")
        assert talk.told[number].answer.text == "a"
    async with asyncio.timeout(5):
        assert await running.running is ExitStatus.OK
    assert running.count(Outcome.STOPPING) == running.counted == 10


async def test_the_engines_death_fails_every_request_of_every_session(
    stepped: RunningService,
) -> None:
    talks = [Talk.over(stepped.channel) for _ in range(3)]
    for talk in talks:
        for number in (1, 2):
            await talk.start(number, ENDLESS)
            await talk.started(number)
    stepped.engine.step()
    stepped.engine.die()
    for talk in talks:
        for number in (1, 2):
            failed = await talk.failure(number)
            assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_DEAD")
            assert failed.retry_after_s == 5.0
            assert talk.told[number].answer.text == "a"
    async with asyncio.timeout(5):
        assert await stepped.running is ExitStatus.ENGINE_DIED
    assert stepped.count(Outcome.UNAVAILABLE) == stepped.counted == 6


async def test_the_engines_death_ends_detached_streams_too(stepped: RunningService) -> None:
    talk = Talk.over(stepped.channel)
    request = pb.GenerateRequest()
    request.CopyFrom(ENDLESS)
    request.stream.on_disconnect = pb.ON_DISCONNECT_DETACH
    await talk.start(1, request)
    await talk.started(1)
    await talk.close(1)
    await eventually(lambda: stepped.service.directory.detached == 1)
    stepped.engine.die()
    async with asyncio.timeout(5):
        assert await stepped.running is ExitStatus.ENGINE_DIED
    assert stepped.count(Outcome.UNAVAILABLE) == stepped.counted == 1
    assert stepped.service.gate.held == 0


async def test_a_message_that_is_none_ends_the_session_and_no_other(
    running: RunningService,
) -> None:
    good = Talk.over(running.channel)
    await good.start(1, ENDLESS)
    await good.started(1)
    bad: Any = running.channel.stream_stream("/tokenstream.v1.GenerationService/Session")()
    start = pb.SessionRequest(start=pb.SessionStart(id=1, request=ENDLESS))
    await bad.write(start.SerializeToString())
    await bad.write(b"\xff\xff\xff")
    assert await code_of(bad) is not grpc.StatusCode.OK
    assert (await good.answer(1)).text == "ab" * 500
    await good.end()
    await eventually(lambda: running.idle)
    assert running.service.generation_servicer.sessions_open == 0


async def test_the_notices_of_a_long_batch_are_bounded_as_those_of_single_messages(
    talk: Talk,
) -> None:
    number = 5000
    message = pb.SessionRequest()
    for identity in range(1, number + 1):
        message.batch.requests.add().start.id = identity  # without a prompt
    await talk.call.write(message)
    told = 0
    while told < number:
        frame = await talk.call.read()
        assert len(frame.failed) <= MOST_NOTICES + 128
        told += len(frame.failed)
