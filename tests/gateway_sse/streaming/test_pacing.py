"""Readers that pace, and streams that are silent."""

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from httpx_sse import ServerSentEvent

from gateway_sse.config import GatewaySettings
from gateway_sse.streaming.relay import Relay
from service.engine.scripted import ScriptedEngine
from tests.clients.script import STREAM_ID, Fail, deltas, finished, reason, started
from tests.clients.scripted import ScriptedService
from tests.conftest import Serve
from tests.gateway_sse.browsers import ask, read_some, reading, slow_connection, text_of
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.streaming.conftest import Bridges
from tests.service.running import eventually


async def acknowledge(http: httpx.AsyncClient, body: Any, stream: str = STREAM_ID) -> int:
    response = await http.post(f"/v1/streams/{stream}/ack", json=body)
    return response.status_code


async def test_no_more_than_the_window_goes_out_ahead_of_what_was_acknowledged(
    service: ScriptedService, gateway: Gateway, http: httpx.AsyncClient
) -> None:
    service.script = [started(), *deltas(*"abcdefghij"), finished(10)]
    paced: dict[str, Any] = {"prompt": "Hi", "ack_window": 3, "max_delay_ms": 0}
    async with reading(gateway.url, **paced) as events:
        await anext(events)
        text = ""
        for acknowledged in (0, 2, 6):
            assert await acknowledge(http, {"next_token_index": acknowledged}) == 204
            while len(text) < min(acknowledged + 3, 10):
                text += text_of(await read_some(events, 1))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await gateway_stays_silent(gateway)
            (relay,) = gateway.streams._open
            assert relay.stream.next_token_index == len(text) == min(acknowledged + 3, 10)
        # The end waits for no acknowledgement once nothing is held back.
        assert await acknowledge(http, {"next_token_index": 7}) == 204
        *rest, end, done = await read_some(events, 3)
        assert [event.event for event in (end, done)] == ["finished", "message"]
    assert text + text_of(rest) == "abcdefghij"


async def test_a_reader_that_acknowledges_nothing_is_ended_after_the_stall_limit(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = [started(), *deltas(*"abcdefghij"), finished(10)]
    gateway = Gateway(settings.model_copy(update={"stall_limit_s": 0.2}))
    async with reading(gateway.url, prompt="Hi", ack_window=3, max_delay_ms=0) as events:
        told = [event async for event in events]
    assert text_of(told) == "abc"
    assert [event.event for event in told[-2:]] == ["error", "message"]
    assert told[-2].json()["error"]["reason"] == "STREAM_STALLED"
    gateway.stop.set()
    await gateway.serving


@pytest.mark.parametrize("ack_window", [1, 2])
async def test_tokens_without_text_never_stall_a_client_that_acknowledges_all_it_hears_of(
    serve: Serve, bridges: Bridges, ack_window: int
) -> None:
    # A token is a byte: of the emoji's four, three have no text, and no event.
    bridge = bridges(await serve(ScriptedEngine(step_s=0.002)), stall_limit_s=1)
    paced: dict[str, Any] = {"max_delay_ms": 0, "max_tokens_per_message": 1}
    told = list[ServerSentEvent]()
    async with (
        httpx.AsyncClient(base_url=bridge.url) as http,
        reading(bridge.url, prompt="a😀b", ack_window=ack_window, **paced) as events,
    ):
        async for event in events:
            told.append(event)
            stream_id, _, place = event.id.partition(":")
            if place.isdecimal():
                await acknowledge(http, {"next_token_index": int(place)}, stream_id)
    assert [event.event for event in told[-2:]] == ["finished", "message"]
    assert text_of(told).startswith("a😀b")


async def gateway_stays_silent(gateway: Gateway) -> None:
    (relay,) = gateway.streams._open
    before = relay.stream.next_token_index
    while relay.stream.next_token_index == before:
        await asyncio.sleep(0.005)


async def test_bad_acknowledgements_are_refused_by_name(http: httpx.AsyncClient) -> None:
    for body in (
        {},
        {"next_token_index": -1},
        {"next_token_index": "1"},
        {"next_token_index": True},
    ):
        response = await http.post(f"/v1/streams/{STREAM_ID}/ack", json=body)
        assert response.status_code == 400
        (violation,) = response.json()["error"]["field_violations"]
        assert violation["field"] == "next_token_index"
    assert await acknowledge(http, {"next_token_index": 1}, "unknown") == 404


@pytest.mark.parametrize(
    ("accept", "comment"),
    [("text/event-stream", b": keep-alive\n"), ("application/x-ndjson", b"1\r\n\n")],
)
async def test_a_request_that_waits_for_its_place_in_the_engine_has_started_and_gets_comments(
    serve: Serve, bridges: Bridges, accept: str, comment: bytes
) -> None:
    running = await serve(ScriptedEngine(step_s=None, max_running=1))
    bridge = bridges(running, keepalive_interval_s=0.05, linger_s=0)
    async with reading(bridge.url, prompt="first") as first:
        await anext(first)
        await eventually(lambda: len(running.engine.running_ids) == 1)
        with await slow_connection(bridge.port, 65536) as connection:
            await ask(connection, "prompt=second", f"Accept: {accept}")
            received, loop = b"", asyncio.get_running_loop()
            while received.count(comment) < 2:
                received += await asyncio.wait_for(loop.sock_recv(connection, 65536), 2)
            assert b"started" in received
            assert b'"token"' not in received


async def test_nothing_is_sent_before_the_service_took_the_request(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    taken = asyncio.Event()
    service.script = [taken, started(), finished(0)]
    gateway = Gateway(settings.model_copy(update={"keepalive_interval_s": 0.05}))
    with await slow_connection(gateway.port) as connection:
        await ask(connection, "prompt=Hi")
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.sock_recv(connection, 1), 0.3)
        taken.set()
        assert (await asyncio.wait_for(loop.sock_recv(connection, 15), 2)) == b"HTTP/1.1 200 OK"
    gateway.stop.set()
    await gateway.serving


async def test_a_failure_waits_for_no_acknowledgement(
    service: ScriptedService, gateway: Gateway
) -> None:
    stalled = Fail(grpc.StatusCode.ABORTED, "it stalled", [reason("STREAM_STALLED")])
    service.script = [started(), *deltas(*"abcdef"), stalled]
    async with reading(gateway.url, prompt="Hi", ack_window=3, max_delay_ms=0) as events:
        async with asyncio.timeout(5):
            *some, error, done = [event async for event in events]
    assert text_of(some) == "abcdef"
    assert error.event == "error"
    assert error.json()["error"]["reason"] == "STREAM_STALLED"
    assert done.data == "[DONE]"


@pytest.mark.parametrize("accept", ["text/plain", "text/event-stream"])
async def test_a_silent_stream_is_looked_at_once_an_interval_also_where_nothing_can_be_said(
    service: ScriptedService,
    settings: GatewaySettings,
    monkeypatch: pytest.MonkeyPatch,
    accept: str,
) -> None:
    looks = 0
    look = Relay._keep_alive

    def counted(relay: Relay) -> None:
        nonlocal looks
        looks += 1
        look(relay)

    monkeypatch.setattr(Relay, "_keep_alive", counted)
    service.script = [started(), asyncio.Event()]
    quick = {"keepalive_interval_s": 0.2, "drain_grace_s": 0, "linger_s": 0}
    gateway = Gateway(settings.model_copy(update=quick))
    with await slow_connection(gateway.port) as connection:
        await ask(connection, "prompt=Hi", f"Accept: {accept}")
        await eventually(lambda: looks >= 3)
        before = looks
        await asyncio.sleep(1)
        assert looks - before <= 6
    gateway.stop.set()
    await gateway.serving
