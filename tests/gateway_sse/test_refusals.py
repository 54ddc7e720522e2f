"""What goes wrong before a stream's start is an HTTP status with a JSON body."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest

from gateway_sse.config import GatewaySettings
from tests.clients.script import Fail, bad_fields, reason, retry_in
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway

PATH = "/v1/completions/stream"


async def refusal(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"code", "reason", "message", "field_violations", "retry_after_s"}
    return error


@pytest.mark.parametrize(
    ("code", "status", "retries"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400, False),
        (grpc.StatusCode.UNAUTHENTICATED, 401, False),
        (grpc.StatusCode.PERMISSION_DENIED, 403, False),
        (grpc.StatusCode.NOT_FOUND, 404, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429, True),
        (grpc.StatusCode.INTERNAL, 500, False),
        (grpc.StatusCode.UNKNOWN, 500, False),
        (grpc.StatusCode.UNAVAILABLE, 503, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504, False),
    ],
)
async def test_each_status_has_its_http_status(
    service: ScriptedService,
    http: httpx.AsyncClient,
    code: grpc.StatusCode,
    status: int,
    retries: bool,
) -> None:
    service.script = [Fail(code, "why", [reason("R")])]
    response = await http.post(PATH, json={"prompt": "Hi"})
    assert response.status_code == status
    error = await refusal(response)
    assert (error["code"], error["reason"], error["message"]) == (code.name, "R", "why")
    assert ("retry-after" in response.headers) == retries
    assert (error["retry_after_s"] is not None) == retries


async def test_the_time_to_retry_is_rounded_up_to_whole_seconds(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = [
        Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", [reason("R"), retry_in(2.1)])
    ]
    response = await http.post(PATH, json={"prompt": "Hi"})
    assert response.headers["retry-after"] == "3"
    assert (await refusal(response))["retry_after_s"] == 2.1


async def test_the_services_field_paths_become_this_apis_names(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    details = [
        reason("INVALID_REQUEST"),
        bad_fields(sampling__top_p="must be above 0", text="must not be empty"),
    ]
    service.script = [Fail(grpc.StatusCode.INVALID_ARGUMENT, "sampling.top_p: no", details)]
    error = await refusal(await http.post(PATH, json={"prompt": "", "top_p": 0}))
    assert error["field_violations"] == [
        {"field": "top_p", "description": "must be above 0"},
        {"field": "prompt", "description": "must not be empty"},
    ]
    assert error["message"] == "top_p: must be above 0; prompt: must not be empty"


async def test_a_service_that_is_gone_is_503_without_its_address(
    settings: GatewaySettings, service: ScriptedService
) -> None:
    gone = settings.model_copy(update={"upstream": "127.0.0.1:1"})
    gateway = Gateway(gone)
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        response = await http.post(PATH, json={"prompt": "Hi"})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert (await refusal(response))["message"] == "the service cannot be reached"
        assert "127.0.0.1" not in response.text
        assert (await http.get("/readyz?upstream=1")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200
    gateway.stop.set()
    await gateway.serving


async def test_a_stream_without_a_start_is_an_internal_error(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script, service.knows_sessions = [], False
    response = await http.post(PATH, json={"prompt": "Hi"})
    assert response.status_code == 500
    assert (await refusal(response))["reason"] == "BROKEN_STREAM"


@pytest.mark.parametrize(
    ("content_type", "body", "status", "cause", "field"),
    [
        ("application/json", b"{", 400, "MALFORMED_JSON", None),
        ("application/json", b"[1]", 400, "MALFORMED_JSON", None),
        ("application/json", b'{"prompt": "Hi", "top_p": 2}'[:20], 400, "MALFORMED_JSON", None),
        ("application/json", b'{"prompt": "\xff"}', 400, "MALFORMED_JSON", None),
        ("text/plain", b'{"prompt": "Hi"}', 415, "UNSUPPORTED_MEDIA_TYPE", None),
        (
            "application/json",
            b'{"prompt": "Hi", "maxtokens": 3}',
            400,
            "UNKNOWN_FIELD",
            "maxtokens",
        ),
        ("application/json", b'{"prompt": 3}', 400, "WRONG_TYPE", "prompt"),
        ("application/json", b'{"prompt": "\\ud800"}', 400, "INVALID_REQUEST", "prompt"),
        ("application/json", b'{"prompt": "Hi", "top_k": -1}', 400, "INVALID_REQUEST", "top_k"),
        ("application/json", b'{"token_ids": [-1]}', 400, "INVALID_REQUEST", "token_ids"),
    ],
)
async def test_a_bad_body_is_refused_before_the_service_is_asked(
    service: ScriptedService,
    http: httpx.AsyncClient,
    content_type: str,
    body: bytes,
    status: int,
    cause: str,
    field: str | None,
) -> None:
    response = await http.post(PATH, content=body, headers={"content-type": content_type})
    assert response.status_code == status
    error = await refusal(response)
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", cause)
    assert [v["field"] for v in error["field_violations"]] == ([field] if field else [])
    assert service.requests == []


async def test_a_body_over_the_limit_is_413(
    http: httpx.AsyncClient, settings: GatewaySettings
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(settings.max_body_bytes // 65536 + 1):
            yield b"x" * 65536

    headers = {"content-type": "application/json"}
    response = await http.post(PATH, content=chunks(), headers=headers)
    assert response.status_code == 413
    assert (await refusal(response))["reason"] == "BODY_TOO_LARGE"


async def test_a_body_that_declares_too_much_is_refused_before_it_is_read(
    gateway: Gateway, settings: GatewaySettings
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /v1/completions/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % (settings.max_body_bytes + 1)
    )
    async with asyncio.timeout(2):
        assert b" 413 " in await reader.readline()
    writer.close()


async def test_a_bad_query_is_refused_as_a_bad_body_is(http: httpx.AsyncClient) -> None:
    response = await http.get(f"{PATH}?prompt=Hi&max_tokens=many")
    assert response.status_code == 400
    assert (await refusal(response))["field_violations"] == [
        {"field": "max_tokens", "description": "must be an integer"}
    ]


async def test_a_path_or_method_that_does_not_exist_has_the_same_form(
    http: httpx.AsyncClient,
) -> None:
    response = await http.get("/v2/nothing")
    assert response.status_code == 404
    assert (await refusal(response))["code"] == "NOT_FOUND"
    response = await http.put(PATH)
    assert response.status_code == 405
    assert "POST" in response.headers["allow"]
    await refusal(response)
