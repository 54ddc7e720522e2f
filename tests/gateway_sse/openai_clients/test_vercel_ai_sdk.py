"""Vercel's AI SDK (`ai`, `@ai-sdk/openai-compatible`) against a bridge over a scripted service."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from tests.clients.script import Fail, answer, deltas, finished, reason, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.openai_clients.callers import NodeWorker
from tests.gateway_sse.openai_clients.scripts import BusyOnce, broken_off
from tokenstream.v1 import generation_pb2 as pb

Ask = Callable[..., Awaitable[dict[str, Any]]]
HI = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
def ask(node_vercel: NodeWorker, base_url: str) -> Ask:
    async def ask(settings: dict[str, Any], *, call: str = "chat", **job: Any) -> dict[str, Any]:
        shared = {"base_url": base_url, "api_key": "key", "retries": 0, "model": "demo"}
        return await node_vercel.run({"call": call, "settings": settings, **shared, **job})

    return ask


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("call", ["chat", "completion"])
async def test_text_reason_and_usage(
    service: ScriptedService, ask: Ask, call: str, stream: bool
) -> None:
    service.script = [started(), *deltas("Hel", "lo", "é"), finished(3, pb.FINISH_REASON_STOP)]
    result = await ask(HI, call=call, stream=stream)
    assert result["error"] is None
    assert (result["text"], result["reason"]) == ("Helloé", "stop")
    usage = result["usage"]
    assert (usage["inputTokens"], usage["outputTokens"], usage["totalTokens"]) == (3, 3, 6)


async def test_each_chunk_is_a_piece_of_text(service: ScriptedService, ask: Ask) -> None:
    service.script = answer("a", "b", "c")
    result = await ask(HI, stream=True)
    assert (result["pieces"], result["text"], result["reason"]) == (3, "abc", "length")


async def test_settings_go_to_the_service(service: ScriptedService, ask: Ask) -> None:
    service.script = answer("a")
    settings = {
        "system": "Be kind.",
        "prompt": "Hi",
        "maxOutputTokens": 7,
        "temperature": 0.5,
        "topP": 0.9,
        "presencePenalty": 0.1,
        "frequencyPenalty": -0.1,
        "stopSequences": ["\n"],
        "seed": 42,
        "providerOptions": {"tokenstream": {"top_k": 5, "max_delay_ms": 0}},
    }
    assert (await ask(settings, stream=True))["error"] is None
    [request] = service.requests
    assert [(m.role, m.content) for m in request.chat.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
    ]
    assert request.sampling == pb.SamplingOptions(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        stop=["\n"],
        seed=42,
        top_k=5,
    )
    assert request.stream.max_delay_ms == 0


async def test_an_object_is_asked_for_by_its_schema(service: ScriptedService, ask: Ask) -> None:
    service.script = answer('{"a":', "1}")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    result = await ask(HI, schema=schema)
    assert result["error"] is None
    assert result["output"] == {"a": 1}
    sent = json.loads(service.requests[0].sampling.structured_output.json_schema)
    assert {key: sent[key] for key in schema} == schema


async def test_several_parts_of_text_are_one_message(service: ScriptedService, ask: Ask) -> None:
    service.script = answer("a")
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert (await ask({"messages": [{"role": "user", "content": parts}]}))["error"] is None
    assert service.requests[0].chat.messages[0].content == "one\ntwo"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_field_is_told_by_its_name(
    service: ScriptedService, ask: Ask, stream: bool
) -> None:
    settings = {**HI, "providerOptions": {"tokenstream": {"top_kk": 5}}}
    error = (await ask(settings, stream=stream))["error"]
    assert (error["cause"], error["status"]) == ("AI_APICallError", 400)
    assert error["message"] == "top_kk: unknown field; did you mean top_k?"
    assert error["data"]["error"]["param"] == "top_kk"
    assert service.requests == []


async def test_an_image_is_refused_by_its_place(service: ScriptedService, ask: Ask) -> None:
    parts = [{"type": "image", "image": "iVBORw0KGgo=", "mediaType": "image/png"}]
    error = (await ask({"messages": [{"role": "user", "content": parts}]}))["error"]
    assert error["status"] == 400
    assert "messages[0].content[0]" in error["message"]
    assert "image_url" in error["message"]


@pytest.mark.parametrize(
    ("code", "cause", "status"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", 401),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", 404),
        (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOADING", 503),
    ],
)
async def test_what_the_service_says_is_an_api_call_error(
    service: ScriptedService, ask: Ask, code: grpc.StatusCode, cause: str, status: int
) -> None:
    service.script = [Fail(code, "the reason why", [reason(cause)])]
    error = (await ask(HI))["error"]
    assert (error["cause"], error["status"]) == ("AI_APICallError", status)
    assert error["message"] == "the reason why"


async def test_a_busy_service_is_asked_again_after_the_time_that_it_named(
    service: ScriptedService, ask: Ask
) -> None:
    service.script = busy = BusyOnce(0.9)
    result = await ask(HI, retries=1, stream=True)
    assert (result["error"], result["text"]) == (None, "Hello")
    assert 0.9 <= busy.waited_s < 1.9  # its own first delay is two seconds


async def test_a_failure_after_the_first_byte_is_an_error_after_what_came_before(
    service: ScriptedService, ask: Ask
) -> None:
    service.script = broken_off()
    result = await ask(HI, stream=True)
    assert (result["text"], result["reason"]) == ("Hel", "error")
    assert "the engine failed" in json.dumps(result["error"])


async def test_aborting_ends_the_request_in_the_service(service: ScriptedService, ask: Ask) -> None:
    service.script = [started(), *deltas("a", "b"), asyncio.Event()]
    result = await ask(HI, stream=True, abort_after=2)
    assert result["text"] == "ab"
    async with asyncio.timeout(1):
        await service.cancelled.wait()
    service.script = answer("c")  # `still_works` says why
    assert (await ask(HI))["text"] == "c"
