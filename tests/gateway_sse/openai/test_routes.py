"""What HTTP adds to the requests and answers of OpenAI's paths."""

import asyncio
from typing import Any

import grpc
import httpx
import pytest

from gateway_sse.config import GatewaySettings
from tests.clients.script import Fail, answer, deltas, reason, retry_in, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway

CHAT: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION: dict[str, Any] = {"model": "demo", "prompt": "Hi"}
BOTH = pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)]
)


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@BOTH
async def test_a_stream_is_server_sent_events_that_nobody_keeps(
    service: ScriptedService, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    service.script = answer("a")
    response = await http.post(path, json={**body, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"].startswith("no-cache")
    assert response.headers["x-accel-buffering"] == "no"
    assert response.text.endswith("data: [DONE]\n\n")


@BOTH
@pytest.mark.parametrize(
    ("fields", "delay_ms"),
    [({}, 200), ({"stream": True}, 50), ({"max_delay_ms": 0}, 0)],
)
async def test_tokens_wait_longer_for_each_other_in_an_answer_in_one_piece(
    service: ScriptedService,
    http: httpx.AsyncClient,
    path: str,
    body: dict[str, Any],
    fields: dict[str, Any],
    delay_ms: int,
) -> None:
    service.script = answer("a")
    assert (await http.post(path, json=body | fields)).status_code == 200
    assert service.requests[0].stream.max_delay_ms == delay_ms


@BOTH
async def test_a_failure_has_openais_shape_and_the_time_to_come_back(
    service: ScriptedService, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    service.script = [
        Fail(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "full", [reason("TOO_MANY_STREAMS"), retry_in(2.1)]
        )
    ]
    for stream in (False, True):
        response = await http.post(path, json={**body, "stream": stream})
        assert (response.status_code, response.headers["retry-after"]) == (429, "3")
        assert error_of(response) == {
            "message": "full",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }


@BOTH
async def test_an_answer_in_one_piece_that_fails_half_way_is_a_failure(
    service: ScriptedService, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    service.script = [
        started(),
        *deltas("a"),
        Fail(grpc.StatusCode.INTERNAL, "the engine failed", [reason("ENGINE_FAILED")]),
    ]
    response = await http.post(path, json=body)
    assert response.status_code == 500
    assert error_of(response)["code"] == "engine_failed"


@BOTH
async def test_a_body_that_cannot_be_read_is_refused_before_the_service_is_asked(
    service: ScriptedService,
    http: httpx.AsyncClient,
    settings: GatewaySettings,
    path: str,
    body: dict[str, Any],
) -> None:
    malformed = await http.post(path, content=b"{", headers={"content-type": "application/json"})
    assert (malformed.status_code, error_of(malformed)["code"]) == (400, "malformed_json")
    other = await http.post(path, content=b"{}", headers={"content-type": "text/plain"})
    assert (other.status_code, error_of(other)["code"]) == (415, "unsupported_content_type")
    large = await http.post(path, json={**body, "user": "x" * settings.max_body_bytes})
    assert (large.status_code, error_of(large)["code"]) == (413, "request_too_large")
    assert service.requests == []


async def test_a_wrong_method_and_an_unknown_path_have_openais_shape(
    http: httpx.AsyncClient,
) -> None:
    response = await http.get("/v1/chat/completions")
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]
    assert error_of(response)["code"] == "method_not_supported"
    response = await http.post("/v1/embeddings", json={})
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")


async def test_a_key_that_cannot_be_read_is_401(http: httpx.AsyncClient) -> None:
    headers = {"authorization": "Bearer two words"}
    response = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("stream", [False, True])
async def test_stopping_the_bridge_ends_what_is_under_way(
    service: ScriptedService, settings: GatewaySettings, stream: bool
) -> None:
    gateway = Gateway(settings.model_copy(update={"drain_grace_s": 0.1}))
    service.script = [started(), *deltas("a"), asyncio.Event()]
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        asking = asyncio.create_task(
            http.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        )
        async with asyncio.timeout(5):
            await service.arrived.wait()
            gateway.stop.set()
            response = await asking
            await gateway.serving
            await service.cancelled.wait()
    if stream:
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"code":"gateway_stopping"' in response.text
    else:
        assert (response.status_code, error_of(response)["code"]) == (503, "gateway_stopping")


async def test_the_models_are_openais_with_fields_of_our_own(http: httpx.AsyncClient) -> None:
    model = {
        "id": "demo",
        "object": "model",
        "created": 0,
        "owned_by": "tokenstream",
        "context_length": 2048,
        "vocab_size": 512,
        "capabilities": ["text_prompt"],
    }
    listed = await http.get("/v1/models")
    assert listed.json() == {"object": "list", "data": [model]}
    assert (await http.get("/v1/models/demo")).json() == model
    unknown = await http.get("/v1/models/org/other")
    assert unknown.status_code == 404
    assert (error_of(unknown)["code"], error_of(unknown)["param"]) == ("model_not_found", "model")


async def test_the_trace_context_goes_to_the_service(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("a")
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": parent, "tracestate": "a=1"}
    await http.post("/v1/chat/completions", json=CHAT, headers=headers)
    [start] = [frame.start for frame in service.frames if frame.HasField("start")]
    assert (start.traceparent, start.tracestate) == (parent, "a=1")
