"""Sockets that close, stall or are slow, and a process that stops."""

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from gateway_sse.config import GatewaySettings
from gateway_sse.native.conversation import Conversation
from tests.clients.script import deltas, finished, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.native.sockets import (
    frame,
    hear,
    raw_socket,
    say,
    url_of,
)
from tests.service.running import eventually


@pytest.mark.parametrize(
    ("delivery", "at_least_s", "at_most_s"),
    [({}, 0.2, 1.0), ({"on_disconnect": "end"}, 0.0, 0.2), ({"on_disconnect": "detach"}, 9, 9)],
)
async def test_a_closed_socket_is_to_its_answers_what_a_closed_connection_is(
    service: ScriptedService,
    settings: GatewaySettings,
    delivery: dict[str, Any],
    at_least_s: float,
    at_most_s: float,
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"linger_s": 0.4}))
    async with connect(url_of(gateway)) as ws:
        await say(ws, "start", id="a", request={"prompt": "Hi", **delivery})
        await hear(ws)
        await hear(ws)
    loop = asyncio.get_running_loop()
    closed_at = loop.time()
    if delivery.get("on_disconnect") == "detach":
        await asyncio.wait_for(service.cancelled.wait(), 1)  # let go of, and
        await asyncio.sleep(0.6)
        assert not service.stream_cancelled.is_set()  # not ended
    else:
        await asyncio.wait_for(service.stream_cancelled.wait(), 2)
        assert at_least_s <= loop.time() - closed_at <= at_most_s
    gateway.stop.set()
    await gateway.serving


async def test_when_the_process_stops_a_socket_is_sent_elsewhere_and_its_streams_are_let_go(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = lambda request: [started(stream_id=request.text), asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"drain_grace_s": 0.1}))
    async with connect(url_of(gateway)) as busy, connect(url_of(gateway)) as idle:
        await say(busy, "start", id="a", request={"prompt": "one"})
        event_id = (await hear(busy))["event_id"]
        gateway.stop.set()
        for ws in (busy, idle):
            with pytest.raises(ConnectionClosed) as caught:
                await hear(ws)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001
    await asyncio.wait_for(gateway.serving, 5)
    assert event_id == "one:0"
    assert not service.stream_cancelled.is_set()


async def test_a_request_that_had_not_started_when_the_process_stops_is_told_so(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = [asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"drain_grace_s": 0.1}))
    async with connect(url_of(gateway)) as ws:
        await say(ws, "start", id="a", request={"prompt": "Hi"})
        await service.arrived.wait()
        gateway.stop.set()
        assert (await hear(ws))["error"]["reason"] == "GATEWAY_STOPPING"
    await asyncio.wait_for(gateway.serving, 5)


async def test_a_socket_that_takes_nothing_for_the_stall_limit_is_dropped_and_its_answer_ended(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    count = 4000
    service.script = [started(), *deltas(*["x" * 4096] * count), finished(count)]
    gateway = Gateway(settings.model_copy(update={"stall_limit_s": 0.3}))
    _, writer = await raw_socket(gateway)
    writer.write(frame('{"type": "start", "id": "a", "request": {"prompt": "Hi"}}'))
    await service.arrived.wait()
    played = service.sessions[0].playing[1]
    await asyncio.wait_for(service.stream_cancelled.wait(), 5)
    assert played.delivered < count / 2
    await eventually(lambda: len(gateway.streams) == 0)
    writer.close()
    gateway.stop.set()
    await gateway.serving


async def test_a_slow_socket_is_no_stalled_one(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    count = 4000
    service.script = [started(), *deltas(*["x" * 64] * count), finished(count)]
    gateway = Gateway(settings.model_copy(update={"stall_limit_s": 0.4}))
    reader, writer = await raw_socket(gateway)
    writer.write(frame('{"type": "start", "id": "a", "request": {"prompt": "Hi"}}'))
    loop = asyncio.get_running_loop()
    began, received = loop.time(), b""
    while b'"finished"' not in received[-4096:]:
        received += await asyncio.wait_for(reader.read(4096), 5)
        await asyncio.sleep(0.02)
    assert loop.time() - began > 0.8
    assert received.count(b"x" * 64) >= count
    writer.close()
    gateway.stop.set()
    await gateway.serving


async def test_whoever_sends_bad_messages_and_reads_nothing_is_read_no_further(
    service: ScriptedService, settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear_it, close_it = Conversation.hear, Conversation.close
    heard, most, closed = 0, 0, asyncio.Event()

    def hear(self: Conversation, text: str) -> None:
        nonlocal heard, most
        hear_it(self, text)
        heard, most = heard + 1, max(most, len(self._notices))

    def close(self: Conversation) -> None:
        close_it(self)
        closed.set()

    monkeypatch.setattr(Conversation, "hear", hear)
    monkeypatch.setattr(Conversation, "close", close)
    gateway = Gateway(settings.model_copy(update={"stall_limit_s": 0.5}))
    _, writer = await raw_socket(gateway)
    writer.write(frame('{"type": "nothing", "id": "%s"}' % ("x" * 64)) * 20_000)
    await asyncio.wait_for(closed.wait(), 10)  # dropped in the end, and not heard out by then
    assert 0 < heard < 10_000
    assert most <= 16
    writer.close()
    gateway.stop.set()
    await gateway.serving
