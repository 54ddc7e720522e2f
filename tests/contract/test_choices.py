"""Several choices for one request, on a call of its own."""

import asyncio

import grpc
import pytest
import structlog

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.several import Choices, endless, several, texts_of
from tests.service.running import Answer, Refusal, RunningService, eventually, refusal
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc


async def begun(running: RunningService, request: pb.GenerateRequest) -> tuple[object, Choices]:
    """Begin a call and read its start."""
    call, got = running.generate(request), Choices(request.sampling.n)
    got.add(await anext(aiter(call)))
    return call, got


async def refused_after(call: object, got: Choices) -> Refusal:
    """Keep what comes before the failure."""
    try:
        await got.read(call)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError("the call did not fail")


async def test_choices_interleave_and_each_is_whole_with_an_end_of_its_own(
    running: RunningService,
) -> None:
    request = several(4)
    got = await Choices(4).read(running.generate(request))
    assert got.texts == texts_of(4)
    assert got.order[:4] == [0, 1, 2, 3]
    for index, answer in enumerate(got.answers):
        assert answer.end.choice_index == index
        assert answer.end.reason == pb.FINISH_REASON_STOP
        assert answer.end.usage.prompt_tokens == 6
        assert answer.end.usage.completion_tokens == 7 - index  # with the end of text
        assert answer.end.timings.HasField("time_to_first_token")
    await eventually(lambda: running.idle)
    assert running.count(Outcome.STOP) == running.counted == 4


async def test_sixteen_choices_of_many_requests_at_once_are_all_right(
    running: RunningService,
) -> None:
    texts = [f"request {number}: {'x' * number}" for number in range(20)]
    all_got = await asyncio.gather(
        *(Choices(16).read(running.generate(several(16, text))) for text in texts)
    )
    for text, got in zip(texts, all_got, strict=True):
        assert got.texts == texts_of(16, text)
    await eventually(lambda: running.idle)


async def test_the_prompt_is_rendered_once(
    running: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered, render = 0, running.engine.render

    async def counted(*arguments: object) -> object:
        nonlocal rendered
        rendered += 1
        return await render(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(running.engine, "render", counted)
    await Choices(5).read(running.generate(several(5)))
    assert rendered == 1
    assert running.engine.submitted == 5


async def test_one_choice_is_a_request_like_any_other(running: RunningService) -> None:
    got = await Answer().read(running.generate(several(1)))
    assert got.text == "abcdef"
    assert running.counted == 1


async def test_stop_strings_and_bounds_hold_for_each_choice(running: RunningService) -> None:
    stopped = await Choices(3).read(running.generate(several(3, stop=["de"])))
    assert stopped.texts == ["abc", "bc", "c"]
    assert all(answer.end.stop_string == "de" for answer in stopped.answers)
    cut = await Choices(3).read(
        running.generate(several(3, max_tokens=4, stream={"max_tokens_per_message": 2}))
    )
    assert cut.texts == ["abcd", "bcde", "cdef"]
    assert all(len(d.token_ids) <= 2 for answer in cut.answers for d in answer.deltas)


async def test_deltas_of_a_delayed_request_merge_for_each_choice(running: RunningService) -> None:
    request = several(3, "abcdef" * 20)
    request.stream.max_delay_ms = 20
    got = await Choices(3).read(running.generate(request))
    assert got.texts == texts_of(3, "abcdef" * 20)
    assert len(got.order) < 3 * 60


async def test_cancel_ends_all_choices_with_what_was_decoded(stepped: RunningService) -> None:
    call, got = await begun(stepped, endless(3))
    for _ in range(4):
        stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 12)
    await stepped.cancel(got.stream_id)
    await got.read(call)  # type: ignore[arg-type]
    assert got.texts == ["abcd", "bcde", "cdef"]
    assert got.reasons == {pb.FINISH_REASON_CANCELLED}
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.CANCELLED) == stepped.counted == 3


async def test_cancel_after_the_first_choice_has_ended_ends_the_others(
    stepped: RunningService,
) -> None:
    request = several(3, "\u20ac" * 20, stop=["\u20ac\u20ac"])
    call, got = await begun(stepped, request)
    for _ in range(6):  # the first has the stop string; the others begin within a character
        stepped.engine.step()
    await eventually(lambda: stepped.count(Outcome.STOP_STRING) == 1)
    assert stepped.service.gate.held == 2
    with pytest.raises(grpc.aio.AioRpcError):
        await stepped.cancel(f"{got.stream_id}~1")
    await stepped.cancel(got.stream_id)
    await got.read(call)  # type: ignore[arg-type]
    assert [answer.end.reason for answer in got.answers] == [
        pb.FINISH_REASON_STOP,
        pb.FINISH_REASON_CANCELLED,
        pb.FINISH_REASON_CANCELLED,
    ]
    await eventually(lambda: stepped.idle)
    again = await refusal(stepped.generation.Cancel(pb.CancelRequest(stream_id=got.stream_id)))
    assert again.code is grpc.StatusCode.NOT_FOUND


async def test_when_the_engine_fails_one_choice_the_request_fails_once_and_all_is_given_back(
    stepped: RunningService,
) -> None:
    call, got = await begun(stepped, endless(4))
    other = stepped.generate("ok")
    other_got = Answer()
    other_got.add(await anext(aiter(other)))
    stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 5)
    stepped.engine.break_request(f"{got.stream_id}~2")
    stepped.engine.step()
    refused = await refused_after(call, got)
    assert refused.code is grpc.StatusCode.INTERNAL
    assert refused.reason == "ENGINE_FAILED"
    assert all(text.startswith(begin) for text, begin in zip(got.texts, "abcd", strict=True))
    assert all(answer.finished is None for answer in got.answers)
    await eventually(lambda: len(stepped.engine.running_ids) == 1)
    for _ in range(2):
        stepped.engine.step()
    assert (await other_got.read(other)).text == "ok"
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.FAILED) == 4
    assert stepped.count(Outcome.STOP) == 1


async def test_what_was_decoded_before_a_failure_is_delivered_for_each_choice(
    stepped: RunningService,
) -> None:
    request = endless(3)
    request.stream.max_delay_ms = 1000
    call, got = await begun(stepped, request)
    for _ in range(5):
        stepped.engine.step()
    await eventually(lambda: stepped.tokens_routed == 15)
    stepped.engine.break_request(got.stream_id)
    stepped.engine.step()
    await refused_after(call, got)
    assert [text[:5] for text in got.texts] == ["abcde", "bcdef", "cdefc"]


async def test_the_deadline_ends_all_choices_and_is_told_once(stepped: RunningService) -> None:
    request = endless(3)
    call, got = stepped.generate(request, timeout=0.3), Choices(3)
    refused = await refused_after(call, got)
    assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.DEADLINE) == stepped.counted == 3


async def test_closing_the_call_ends_all_choices(stepped: RunningService) -> None:
    with structlog.testing.capture_logs() as log:
        call, _ = await begun(stepped, endless(3))
        stepped.engine.step()
        call.cancel()  # type: ignore[attr-defined]
        await eventually(lambda: stepped.idle)
    assert stepped.count(Outcome.DISCONNECTED) == stepped.counted == 3
    assert [entry["event"] for entry in log] == ["request_ended"] * 3
    assert sorted(entry["choice"] for entry in log) == [0, 1, 2]


async def test_the_engines_death_fails_the_request_once(stepped: RunningService) -> None:
    call, got = await begun(stepped, endless(3))
    stepped.engine.die()
    refused = await refused_after(call, got)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert stepped.count(Outcome.UNAVAILABLE) == stepped.counted == 3


async def test_a_gate_with_too_few_places_refuses_the_whole_request(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=4)
    call, _ = await begun(running, endless(2))
    refused = await refusal(running.generate(endless(3)))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_after_s is not None
    assert refused.message == "fewer than 3 of the 4 streams of this service are free"
    assert running.service.gate.held == 2
    assert running.count(Outcome.OVERLOADED) == 1
    fits, _ = await begun(running, endless(2))
    assert running.service.gate.held == 4
    for one in (call, fits):
        one.cancel()  # type: ignore[attr-defined]
    await eventually(lambda: running.idle)


async def test_more_choices_than_places_are_refused_by_name(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=4)
    refused = await refusal(running.generate(endless(5)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(refused.fields) == {"sampling.n"}
    assert running.count(Outcome.REFUSED) == running.counted == 1
    await eventually(lambda: running.idle)


async def test_a_prompt_that_is_too_long_is_refused_once_and_gives_all_places_back(
    serve: Serve,
) -> None:
    running = await serve(ScriptedEngine(context_length=8))
    refused = await refusal(running.generate(several(4, "far too long", max_tokens=None)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    await eventually(lambda: running.idle)
    assert running.count(Outcome.REFUSED) == running.counted == 1


@pytest.mark.parametrize("failing", ["choice", "submit"])
async def test_a_failure_while_the_choices_are_opened_leaves_nothing(
    running: RunningService, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(running.engine, failing, broken)
        refused = await refusal(running.generate(several(4)))
    assert refused.code is grpc.StatusCode.INTERNAL
    await eventually(lambda: running.idle)
    assert running.count(Outcome.FAILED) == running.counted == 4
    assert (await Choices(4).read(running.generate(several(4)))).texts == texts_of(4)


async def test_a_caller_that_takes_nothing_is_ended_with_all_choices_and_told_once_why(
    serve: Serve,
) -> None:
    engine = ScriptedEngine(step_s=0.0, context_length=500_000)
    running = await serve(engine, stall_limit_s=0.4, drain_grace_s=0)
    channel = running.connect(("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    call, got = stub.Generate(several(3, ignore_eos=True, max_tokens=400_000)), Choices(3)
    got.add(await anext(aiter(call)))
    await eventually(lambda: running.count(Outcome.STALLED) == 3)
    refused = await refused_after(call, got)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "STREAM_STALLED")
    assert all(text.startswith(begin) for text, begin in zip(got.texts, "abc", strict=True))
    await eventually(lambda: running.idle)
    assert running.counted == 3
