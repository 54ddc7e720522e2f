"""What OpenAI's official clients make of refusals, failures and of leaving an answer."""

import asyncio
from typing import Any

import grpc
import openai
import pytest

from tests.clients.script import (
    Fail,
    bad_fields,
    deltas,
    reason,
    started,
)
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.openai_clients.bodies import CHAT
from tests.gateway_sse.openai_clients.callers import Caller, still_works
from tests.gateway_sse.openai_clients.scripts import BusyOnce, broken_off


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
    service.script = busy = BusyOnce(0.9)
    result = await caller("chat", CHAT, retries=1)
    assert result.error is None
    assert result.answer["choices"][0]["message"]["content"] == "Hello"
    assert 0.9 <= busy.waited_s < 3


async def test_a_failure_after_the_first_byte_is_raised_with_what_came_before(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = broken_off()
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


async def test_a_path_that_is_not_there_has_openais_shape(
    service: ScriptedService, base_url: str
) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="key", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError) as raised:
            await client.embeddings.create(model="demo", input="Hi")
    assert raised.value.code == "unknown_url"
