"""Clients that open too much, or send too slowly or too much."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from gateway_sse.config import GatewaySettings
from tests.clients.script import STREAM_ID, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.browsers import reading
from tests.gateway_sse.conftest import Gateway

PATH = "/v1/completions/stream"


async def test_a_client_over_its_limit_is_told_when_to_come_back_and_others_are_not_affected(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = [started(), asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"max_requests_per_client": 2, "linger_s": 0}))
    async with (
        reading(gateway.url, prompt="Hi") as one,
        reading(gateway.url, prompt="Hi") as two,
        httpx.AsyncClient(base_url=gateway.url) as http,
    ):
        await anext(one)
        await anext(two)
        refused = await http.delete("/v1/streams/x")
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["reason"] == "TOO_MANY_REQUESTS_OPEN"
        other = {"authorization": "Bearer another"}
        assert (await http.delete("/v1/streams/x", headers=other)).status_code == 404
        assert (await http.get("/healthz")).status_code == 200
    async with httpx.AsyncClient(base_url=gateway.url) as http, asyncio.timeout(5):
        while (await http.delete("/v1/streams/x")).status_code == 429:
            await asyncio.sleep(0.01)  # until the bridge has seen that they left
    gateway.stop.set()
    await gateway.serving


async def test_a_header_that_is_no_key_makes_no_new_client(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = [started(), asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"max_requests_per_client": 1, "linger_s": 0}))
    async with reading(gateway.url, prompt="Hi") as one, httpx.AsyncClient() as http:
        await anext(one)
        for said in ("Basic a", "Bearer-ish b", "c"):
            path, headers = f"{gateway.url}/v1/streams/x", {"authorization": said}
            assert (await http.delete(path, headers=headers)).status_code == 429
        unreadable = {"authorization": "Bearer a b"}
        assert (await http.delete(path, headers=unreadable)).status_code == 401
    gateway.stop.set()
    await gateway.serving


async def connect(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", gateway.port)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nSlow: "])
async def test_a_connection_whose_head_does_not_come_in_time_is_dropped(
    settings: GatewaySettings, sent: bytes
) -> None:
    gateway = Gateway(settings.model_copy(update={"body_timeout_s": 0.2}))
    reader, writer = await connect(gateway)
    writer.write(sent)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 2) == b""
    writer.close()
    gateway.stop.set()
    await gateway.serving


async def test_a_body_that_does_not_come_in_time_is_408(settings: GatewaySettings) -> None:
    gateway = Gateway(settings.model_copy(update={"body_timeout_s": 0.2}))
    reader, writer = await connect(gateway)
    writer.write(
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        'Content-Length: 100\r\n\r\n{"prompt"'.encode()
    )
    async with asyncio.timeout(2):
        assert b" 408 " in await reader.readline()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length))
    assert body["error"]["reason"] == "BODY_TOO_SLOW"
    writer.close()
    gateway.stop.set()
    await gateway.serving


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nLong: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
    ],
)
async def test_a_head_that_is_too_large_or_malformed_is_400_and_the_connection_ends(
    gateway: Gateway, head: bytes
) -> None:
    reader, writer = await connect(gateway)
    writer.write(head)
    answer = await asyncio.wait_for(reader.read(), 2)
    assert answer.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    writer.close()


async def test_many_headers_are_400_too(gateway: Gateway) -> None:
    reader, writer = await connect(gateway)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200_000 + b"\r\n")
    try:
        answer = await asyncio.wait_for(reader.readline(), 2)
        assert b" 500 " not in answer
    except ConnectionResetError:
        pass
    writer.close()


@asynccontextmanager
async def with_an_answer_open(
    service: ScriptedService, settings: GatewaySettings
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A bridge that drains until this is left, and a client that keeps its connections."""
    service.script = [started(), asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"drain_grace_s": 1}))
    async with (
        httpx.AsyncClient(base_url=gateway.url) as http,
        reading(gateway.url, prompt="Hi") as events,
    ):
        await anext(events)
        yield gateway, http
    await gateway.serving


async def drain(gateway: Gateway) -> None:
    """Stop it, and wait until it has noticed."""
    gateway.stop.set()
    async with asyncio.timeout(1):
        while not gateway.streams.draining:
            await asyncio.sleep(0)


async def test_while_draining_the_bridge_is_alive_but_not_ready(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    async with with_an_answer_open(service, settings) as (gateway, http):
        assert (await http.get("/readyz")).status_code == 200
        await drain(gateway)
        assert (await http.get("/readyz")).status_code == 503  # on the connection that it has
        assert (await http.get("/healthz")).status_code == 200


async def test_while_draining_a_connection_that_was_kept_gets_no_new_answer_and_is_closed(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    async with with_an_answer_open(service, settings) as (gateway, http):
        await http.get("/healthz")
        await drain(gateway)
        response = await http.post("/v1/completions/stream", json={"prompt": "Hi"})
        assert response.status_code == 503
        assert response.json()["error"]["reason"] == "GATEWAY_STOPPING"
        assert response.headers["connection"] == "close"
    assert len(service.requests) == 1


async def test_while_draining_a_connection_stays_for_what_running_answers_need_of_this_bridge(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    async with with_an_answer_open(service, settings) as (gateway, http):
        await drain(gateway)
        for status in (204, 204):
            place = {"next_token_index": 1}
            response = await http.post(f"/v1/streams/{STREAM_ID}/ack", json=place)
            assert response.status_code == status
            assert response.headers.get("connection") != "close"
