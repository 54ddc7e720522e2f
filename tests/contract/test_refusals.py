import asyncio
import math
from typing import Any

import grpc
import pytest

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.service.running import RunningService, refusal, started
from tokenstream.v1 import generation_pb2 as pb

CONTEXT = 1024
KIB = 1024


def sampling(**options: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(text="x", sampling=pb.SamplingOptions(**options))  # type: ignore[arg-type]


def tokens(*ids: int) -> pb.GenerateRequest:
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))


BAD_FIELDS: dict[str, tuple[pb.GenerateRequest, str]] = {
    "no prompt": (pb.GenerateRequest(), "prompt"),
    "empty text": (pb.GenerateRequest(text=""), "text"),
    "text with a zero character": (pb.GenerateRequest(text="a\0b"), "text"),
    "empty token ids": (tokens(), "token_ids.ids"),
    "text as long as the context": (pb.GenerateRequest(text="x" * CONTEXT), "text"),
    "text longer than the context": (pb.GenerateRequest(text="x" * 3 * CONTEXT), "text"),
    "token ids as long as the context": (tokens(*[1] * CONTEXT), "token_ids.ids"),
    "token ids out of vocabulary": (tokens(1, 257), "token_ids.ids"),
    "token ids far out of vocabulary": (tokens(2**32 - 1), "token_ids.ids"),
    "max_tokens 0": (sampling(max_tokens=0), "sampling.max_tokens"),
    "max_tokens past the context": (sampling(max_tokens=CONTEXT), "sampling.max_tokens"),
    "max_tokens past what the prompt leaves": (
        pb.GenerateRequest(text="xyz", sampling=pb.SamplingOptions(max_tokens=CONTEXT - 2)),
        "sampling.max_tokens",
    ),
    "max_tokens of 32 bits": (sampling(max_tokens=2**32 - 1), "sampling.max_tokens"),
    "min_tokens above max_tokens": (
        sampling(min_tokens=5, max_tokens=4),
        "sampling.min_tokens",
    ),
    "min_tokens past the context": (sampling(min_tokens=CONTEXT), "sampling.min_tokens"),
    "temperature below 0": (sampling(temperature=-0.1), "sampling.temperature"),
    "temperature above 2": (sampling(temperature=2.1), "sampling.temperature"),
    "temperature NaN": (sampling(temperature=math.nan), "sampling.temperature"),
    "temperature infinite": (sampling(temperature=math.inf), "sampling.temperature"),
    "top_p 0": (sampling(top_p=0), "sampling.top_p"),
    "top_p above 1": (sampling(top_p=1.01), "sampling.top_p"),
    "top_p NaN": (sampling(top_p=math.nan), "sampling.top_p"),
    "top_k of 32 bits": (sampling(top_k=2**32 - 1), "sampling.top_k"),
    "min_p below 0": (sampling(min_p=-0.1), "sampling.min_p"),
    "min_p above 1": (sampling(min_p=1.1), "sampling.min_p"),
    "presence_penalty below -2": (sampling(presence_penalty=-2.1), "sampling.presence_penalty"),
    "presence_penalty NaN": (sampling(presence_penalty=math.nan), "sampling.presence_penalty"),
    "frequency_penalty above 2": (sampling(frequency_penalty=2.1), "sampling.frequency_penalty"),
    "frequency_penalty infinite": (
        sampling(frequency_penalty=-math.inf),
        "sampling.frequency_penalty",
    ),
    "repetition_penalty 0": (sampling(repetition_penalty=0), "sampling.repetition_penalty"),
    "repetition_penalty NaN": (
        sampling(repetition_penalty=math.nan),
        "sampling.repetition_penalty",
    ),
    "negative seed": (sampling(seed=-1), "sampling.seed"),
    "2,000 stop strings": (sampling(stop=["s"] * 2000), "sampling.stop"),
    "empty stop string": (sampling(stop=["a", ""]), "sampling.stop[1]"),
    "too long a stop string": (sampling(stop=["s" * 257]), "sampling.stop[0]"),
    "200 stop ids": (sampling(stop_token_ids=range(200)), "sampling.stop_token_ids"),
    "stop id out of vocabulary": (sampling(stop_token_ids=[257]), "sampling.stop_token_ids"),
    "max_delay_ms above a second": (
        pb.GenerateRequest(text="x", stream=pb.StreamOptions(max_delay_ms=1001)),
        "stream.max_delay_ms",
    ),
    "max_tokens_per_message 0": (
        pb.GenerateRequest(text="x", stream=pb.StreamOptions(max_tokens_per_message=0)),
        "stream.max_tokens_per_message",
    ),
    "too long an id of the caller": (
        pb.GenerateRequest(text="x", client_request_id="i" * 129),
        "client_request_id",
    ),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
async def test_a_bad_field_is_refused_by_name_before_the_engine_sees_it(
    running: RunningService, name: str
) -> None:
    request, field = BAD_FIELDS[name]
    refused = await refusal(running.generate(request, timeout=5))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (refused.reason, refused.domain) == ("INVALID_REQUEST", "tokenstream")
    assert refused.fields == (field,)
    assert len(refused.message) < 500
    assert running.engine.submitted == 0
    assert running.idle
    assert running.count(Outcome.REFUSED) == running.counted == 1


async def test_all_bad_fields_come_back_together(running: RunningService) -> None:
    refused = await refusal(running.generate(sampling(temperature=3, top_p=0, max_tokens=0)))
    assert set(refused.fields) == {
        "sampling.temperature",
        "sampling.top_p",
        "sampling.max_tokens",
    }


async def test_an_unknown_model_is_not_found(running: RunningService) -> None:
    refused = await refusal(running.generate(pb.GenerateRequest(model="gpt-5", text="x")))
    assert refused.code is grpc.StatusCode.NOT_FOUND
    assert refused.reason == "MODEL_NOT_FOUND"
    assert running.engine.submitted == 0
    assert running.count(Outcome.REFUSED) == 1


async def test_too_large_a_message_is_refused_with_its_limit(serve: Serve) -> None:
    running = await serve(ScriptedEngine(context_length=64 * KIB), max_request_bytes=10 * KIB)
    refused = await refusal(running.generate("x" * 11 * KIB))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == ("",)
    assert str(10 * KIB) in refused.message
    assert running.engine.submitted == 0
    assert running.count(Outcome.REFUSED) == 1


async def test_a_message_past_the_hard_limit_is_refused_by_grpc_itself(serve: Serve) -> None:
    running = await serve(max_request_bytes=10 * KIB)
    refused = await refusal(running.generate("x" * 50 * KIB))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.reason == ""
    assert running.engine.submitted == 0
    assert running.idle


async def test_a_full_service_says_when_to_come_back_and_takes_more_when_it_has_room(
    serve: Serve,
) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=2)
    calls = [running.generate("ab") for _ in range(2)]
    for call in calls:
        await started(call)
    refused = await refusal(running.generate("ab"))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.reason == "TOO_MANY_STREAMS"
    assert refused.retry_after_s == 1.0
    assert running.count(Outcome.OVERLOADED) == 1
    assert running.engine.submitted == 2
    calls[0].cancel()
    async with asyncio.timeout(5):
        while running.service.gate.held == 2:
            await asyncio.sleep(0.001)
    third = running.generate("ab")
    await started(third)


async def test_bad_requests_do_not_make_a_full_service_promise_an_early_place(
    serve: Serve,
) -> None:
    running = await serve(ScriptedEngine(step_s=None), max_streams=1)
    for _ in range(20):
        await refusal(running.generate(""))
    await started(running.generate("ab"))
    refused = await refusal(running.generate("ab"))
    assert refused.retry_after_s == 1.0  # no stream has ended yet


async def test_a_method_that_does_not_exist_is_unimplemented(running: RunningService) -> None:
    call: Any = running.channel.unary_unary("/tokenstream.v1.GenerationService/Sing")
    assert (await refusal(call(b""))).code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_that_is_none_is_refused_and_reaches_nobody(
    running: RunningService,
) -> None:
    call: Any = running.channel.unary_stream("/tokenstream.v1.GenerationService/Generate")
    refused = await refusal(call(b"\xff\xff\xff"))
    # gRPC's own doing, before any code of ours; its versions differ in the code.
    assert refused.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
    assert running.engine.submitted == 0
