"""OpenAI's official clients, for Python and for Node, against a bridge over a scripted service."""

import asyncio
import json
import time
from typing import Any

import grpc
import openai
import pytest

from tests.clients.script import (
    STREAM_ID,
    Fail,
    Step,
    answer,
    bad_fields,
    deltas,
    finished,
    reason,
    retry_in,
    started,
)
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.openai_clients.callers import Caller, still_works
from tests.gateway_sse.openai_clients.scripts import logprobs_answer, of_choice
from tokenstream.v1 import generation_pb2 as pb

HI = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "demo", "messages": HI}
COMPLETION: dict[str, Any] = {"model": "demo", "prompt": "Hi"}
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
}
TWO_CHOICES: list[Step] = [
    started(),
    of_choice(deltas("b")[0], 1),
    deltas("a")[0],
    of_choice(finished(1, pb.FINISH_REASON_STOP), 1),
    finished(1),
]


async def test_a_chat_in_one_piece(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("Hel", "lo")
    result = await caller("chat", CHAT)
    assert result.error is None
    got = result.answer
    assert got["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert got["usage"] == USAGE
    assert (got["id"], got["object"], got["model"]) == (
        f"chatcmpl-{STREAM_ID}",
        "chat.completion",
        "demo",
    )
    assert abs(got["created"] - time.time()) < 60
    assert [(m.role, m.content) for m in service.requests[0].chat.messages] == [("user", "Hi")]


async def test_a_completion_in_one_piece(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("Hel", "lo")
    got = (await caller("completion", COMPLETION)).answer
    assert got["choices"] == [
        {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}
    ]
    assert got["usage"] == USAGE
    assert (got["id"], got["object"]) == (f"cmpl-{STREAM_ID}", "text_completion")
    assert service.requests[0].text == "Hi"
    assert service.requests[0].sampling.max_tokens == 16


async def test_a_streamed_chat_begins_with_the_role_and_ends_with_the_reason(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = [started(), *deltas("Hel", "", "lo"), finished(3, pb.FINISH_REASON_STOP)]
    result = await caller("chat", {**CHAT, "stream": True})
    assert result.error is None
    assert [chunk["choices"][0]["delta"].get("content") for chunk in result.chunks] == [
        "",
        "Hel",
        "lo",
        None,
    ]
    assert result.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert result.reasons() == {0: "stop"}
    assert all("usage" not in chunk for chunk in result.chunks)
    assert service.requests[0].stream.max_delay_ms == 50


async def test_a_streamed_completion(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("Hel", "lo")
    result = await caller("completion", {**COMPLETION, "stream": True})
    assert result.error is None
    assert (result.texts(), result.reasons()) == ({0: "Hello"}, {0: "length"})


async def test_the_usage_comes_last_if_it_is_asked_for(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = answer("Hel", "lo")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for call, body in (("chat", CHAT), ("completion", COMPLETION)):
        *chunks, last = (await caller(call, {**body, **options})).chunks
        assert (last["choices"], last["usage"]) == ([], USAGE)
        assert all(chunk["usage"] is None for chunk in chunks)


async def test_two_choices_in_one_piece(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = TWO_CHOICES
    got = (await caller("chat", {**CHAT, "n": 2})).answer
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in got["choices"]] == [
        (0, "a", "length"),
        (1, "b", "stop"),
    ]
    assert got["usage"] == USAGE
    assert service.requests[0].sampling.n == 2


async def test_two_choices_streamed(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = TWO_CHOICES
    for call, body in (("chat", CHAT), ("completion", COMPLETION)):
        result = await caller(call, {**body, "n": 2, "stream": True})
        assert result.error is None
        assert result.texts() == {0: "a", 1: "b"}
        assert result.reasons() == {0: "length", 1: "stop"}


async def test_log_probabilities_of_a_chat(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = logprobs_answer()
    options = {"logprobs": True, "top_logprobs": 2}
    content = (await caller("chat", {**CHAT, **options})).answer["choices"][0]["logprobs"][
        "content"
    ]
    assert [entry["token"] for entry in content] == ["Hel", "lo", "é"]
    assert content[2] == {
        "token": "é",
        "logprob": -0.25,
        "bytes": [0xC3, 0xA9],
        "top_logprobs": [
            {"token": "é", "logprob": -0.25, "bytes": [0xC3, 0xA9]},
            {"token": "?", "logprob": -2.0, "bytes": [63]},
        ],
    }
    assert service.requests[0].sampling.logprobs == 2
    streamed = await caller("chat", {**CHAT, **options, "stream": True})
    assert [
        entry
        for chunk in streamed.chunks
        for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ] == content


async def test_log_probabilities_of_a_completion(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = logprobs_answer()
    got = (await caller("completion", {**COMPLETION, "logprobs": 2})).answer
    assert got["choices"][0]["logprobs"] == {
        "tokens": ["Hel", "lo", "é"],
        "token_logprobs": [-0.25, -0.25, -0.25],
        "top_logprobs": [
            {"Hel": -0.25, "?": -2.0},
            {"lo": -0.25, "?": -2.0},
            {"é": -0.25, "?": -2.0},
        ],
        "text_offset": [0, 3, 5],
    }


async def test_sampling_goes_to_the_service_as_it_was_asked_for(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = answer("a")
    body = {
        **CHAT,
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "stop": ["\n", "END"],
        "seed": 42,
        "logit_bias": {"5": -100, "6": 1},
    }
    assert (await caller("chat", body)).error is None
    sampling = service.requests[0].sampling
    assert sampling == pb.SamplingOptions(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        stop=["\n", "END"],
        seed=42,
        logit_bias={5: -100, 6: 1},
    )


async def test_a_schema_for_the_answer_goes_to_the_service(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = answer('{"a":', " 1}")
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    got = (await caller("chat", {**CHAT, "response_format": wanted})).answer
    assert json.loads(got["choices"][0]["message"]["content"]) == {"a": 1}
    assert json.loads(service.requests[0].sampling.structured_output.json_schema) == schema


async def test_the_key_goes_to_the_service(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("a")
    await caller("chat", CHAT, api_key="my-key")
    await caller("models", api_key="my-key")
    assert service.keys == ["my-key"]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"max_token": 3}, "max_token", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "invalid_type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
            "tools",
            "unsupported_parameter",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_field_is_told_by_its_name(
    service: ScriptedService,
    caller: Caller,
    fields: dict[str, Any],
    param: str,
    code: str,
    stream: bool,
) -> None:
    extra = {k: v for k, v in fields.items() if k == "max_token"}
    body = {**CHAT, "stream": stream, **fields}
    if extra and "Python" in type(caller).__name__:
        body = {**CHAT, "stream": stream, "extra_body": extra}
    error = (await caller("chat", body)).error
    assert error is not None
    assert (error["name"], error["status"]) == ("BadRequestError", 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert param in error["message"]
    assert service.requests == []


async def test_what_the_service_refuses_has_openais_names(
    service: ScriptedService, caller: Caller
) -> None:
    details = [
        reason("INVALID_REQUEST"),
        bad_fields(sampling__top_p="must be at most 1", chat__messages="too many"),
    ]
    service.script = [Fail(grpc.StatusCode.INVALID_ARGUMENT, "sampling.top_p: no", details)]
    error = (await caller("chat", {**CHAT, "top_p": 1.5})).error
    assert error is not None
    assert (error["name"], error["param"]) == ("BadRequestError", "top_p")
    assert "top_p: must be at most 1; messages: too many" in error["message"]


@pytest.mark.parametrize(
    ("code", "cause", "name", "status"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "AuthenticationError", 401),
        (grpc.StatusCode.PERMISSION_DENIED, "NOT_ALLOWED", "PermissionDeniedError", 403),
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "NotFoundError", 404),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", "RateLimitError", 429),
        (grpc.StatusCode.INTERNAL, "ENGINE_FAILED", "InternalServerError", 500),
        (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOADING", "InternalServerError", 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", "InternalServerError", 504),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_service_says_is_the_exception_that_openais_users_know(
    service: ScriptedService,
    caller: Caller,
    code: grpc.StatusCode,
    cause: str,
    name: str,
    status: int,
    stream: bool,
) -> None:
    service.script = [Fail(code, "the reason why", [reason(cause)])]
    error = (await caller("chat", {**CHAT, "stream": stream})).error
    assert error is not None
    assert (error["name"], error["status"]) == (name, status)
    assert "the reason why" in error["message"]


async def test_an_unknown_model_is_told_as_openai_tells_it(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = [
        Fail(grpc.StatusCode.NOT_FOUND, "model 'x' is not served", [reason("MODEL_NOT_FOUND")])
    ]
    error = (await caller("chat", {**CHAT, "model": "x"})).error
    assert error is not None
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert service.requests[0].model == "x"


async def test_a_busy_service_is_asked_again_after_the_time_that_it_named(
    service: ScriptedService, caller: Caller
) -> None:
    busy = Fail(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", [reason("TOO_MANY_STREAMS"), retry_in(0.9)]
    )
    times: list[float] = []

    def script(_: pb.GenerateRequest) -> list[Step]:
        times.append(time.monotonic())
        return [busy] if len(times) == 1 else answer("Hello")

    service.script = script
    result = await caller("chat", CHAT, retries=1)
    assert result.error is None
    assert result.answer["choices"][0]["message"]["content"] == "Hello"
    first, second = times
    assert 0.9 <= second - first < 3


async def test_a_failure_after_the_first_byte_is_raised_with_what_came_before(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = [
        started(),
        *deltas("Hel"),
        Fail(grpc.StatusCode.INTERNAL, "the engine failed", [reason("ENGINE_FAILED")]),
    ]
    result = await caller("chat", {**CHAT, "stream": True})
    assert result.texts() == {0: "Hel"}
    assert result.error is not None
    assert result.error["name"] == "APIError"
    assert "the engine failed" in result.error["message"]
    assert result.error["code"] == "engine_failed"


async def test_leaving_a_stream_ends_the_request_in_the_service(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = [started(), *deltas("a", "b"), asyncio.Event()]
    result = await caller("chat", {**CHAT, "stream": True}, abort_after=2)
    assert result.error is None
    async with asyncio.timeout(1):
        await service.cancelled.wait()
    await still_works(caller)


async def test_leaving_an_answer_in_one_piece_ends_the_request_in_the_service(
    service: ScriptedService, base_url: str
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="key") as client:
        asking = asyncio.create_task(client.chat.completions.create(**CHAT))
        async with asyncio.timeout(5):
            await service.arrived.wait()
        asking.cancel()
        await asyncio.wait([asking])
        async with asyncio.timeout(1):
            await service.cancelled.wait()


async def test_the_models_are_listed_and_found(service: ScriptedService, caller: Caller) -> None:
    listed = (await caller("models")).answer
    [model] = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("demo", "model", "tokenstream")
    assert (model["context_length"], model["vocab_size"]) == (2048, 512)
    assert (await caller("model", {"model": "demo"})).answer["id"] == "demo"
    error = (await caller("model", {"model": "org/other"})).error
    assert error is not None
    assert (error["name"], error["code"]) == ("NotFoundError", "model_not_found")


async def test_difficult_text_arrives_as_it_was(service: ScriptedService, caller: Caller) -> None:
    texts = [
        "a\r\nb\n",
        "\x00\x1b",
        "data: [DONE]\n\n",
        "\u2028\u2029\x85",
        "é日本🙂",
        '"\\',
        "\u007f",
    ]
    service.script = answer(*texts)
    assert (await caller("chat", {**CHAT, "stream": True})).texts() == {0: "".join(texts)}
    got = (await caller("chat", CHAT)).answer
    assert got["choices"][0]["message"]["content"] == "".join(texts)


async def test_a_path_that_is_not_there_has_openais_shape(
    service: ScriptedService, base_url: str
) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="key", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await client.embeddings.create(model="demo", input="Hi")
    assert raised.value.code == "unknown_url"
