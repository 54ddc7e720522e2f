"""How much merges, as it is counted and as callers see it."""

import pytest

from service.engine.scripted import ScriptedEngine
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import Answer, eventually
from tokenstream.v1 import generation_pb2 as pb


@pytest.mark.parametrize("delay_ms", [0, 20])
@pytest.mark.parametrize("tokens", [1, 7, 100])
async def test_messages_are_counted_as_callers_get_them(
    serve: Serve, delay_ms: int, tokens: int
) -> None:
    running = await serve(ScriptedEngine(step_s=0.001))
    request = pb.GenerateRequest(
        text="abc",
        sampling=pb.SamplingOptions(max_tokens=tokens, ignore_eos=True),
        stream=pb.StreamOptions(max_delay_ms=delay_ms),
    )
    talk = Talk.over(running.channel)
    await talk.start(1, request)
    answers = [await talk.answer(1), await Answer().read(running.generate(request))]
    await talk.end()
    await eventually(lambda: running.idle)
    seen = sum(1 for answer in answers for delta in answer.deltas if delta.token_ids)
    value = running.service.metrics.registry.get_sample_value
    assert value("tokenstream_messages_total") == seen
    assert value("tokenstream_tokens_per_message_count") == 2
    assert value("tokenstream_tokens_delivered_total", {"tenant": ""}) == 2 * tokens
    between = value("tokenstream_inter_token_seconds_count")
    assert between == (0 if tokens == 1 else 2)


async def test_a_request_without_a_token_is_in_no_latency(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None))
    call = running.generate("abc")
    await eventually(lambda: running.service.gate.held == 1)
    running.service.metrics.refresh()
    value = running.service.metrics.registry.get_sample_value
    assert value("tokenstream_streams_queued") == 1
    call.cancel()
    await eventually(lambda: running.idle)
    running.service.metrics.refresh()
    assert value("tokenstream_streams_queued") == 0
    assert value("tokenstream_request_duration_seconds_count") == 0


async def test_a_reader_that_stalls_is_counted(serve: Serve) -> None:
    running = await serve(stall_limit_s=0.2)
    talk = Talk.over(running.channel)
    await talk.start(1, pb.GenerateRequest(text="abc", stream=pb.StreamOptions(credit=1)))
    assert (await talk.failure(1)).reason == "STREAM_STALLED"
    await talk.end()
    value = running.service.metrics.registry.get_sample_value
    assert value("tokenstream_readers_stalled_total") == 1
