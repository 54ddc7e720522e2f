"""Browsers that take little or nothing: bounded memory here, credit withheld there, an end."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import pytest

from gateway_sse.streaming.relay import Relay
from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.gateway_sse.browsers import ask, slow_connection
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.scrape import ended, free_port
from tests.gateway_sse.streaming.conftest import Bridges
from tests.service.running import RunningService, eventually

LONG = "prompt=ab&ignore_eos=true&max_tokens=400000&max_delay_ms=0&max_tokens_per_message=1"
WINDOW = 256  # tokens, the client's
LARGEST_EVENT = 128  # bytes, of a token


@pytest.fixture
async def running(serve: Serve, request: pytest.FixtureRequest) -> RunningService:
    settings: dict[str, Any] = getattr(request, "param", {})
    return await serve(ScriptedEngine(context_length=500_000), **settings)


def relay_of(gateway: Gateway) -> Relay:
    (relay,) = gateway.streams._open
    assert isinstance(relay, Relay)
    return relay


async def test_of_a_browser_that_reads_nothing_little_waits_and_the_service_stops_sending(
    running: RunningService, bridges: Bridges
) -> None:
    bridge = bridges(running)
    with await slow_connection(bridge.port) as connection:
        await ask(connection, LONG)
        await eventually(lambda: len(bridge.streams) == 1)
        relay = relay_of(bridge)
        before = -1
        while before != relay.stream.next_token_index:  # until it stands still
            before = relay.stream.next_token_index
            await asyncio.sleep(0.2)
        assert 0 < before < 3000  # what the kernel took, at a token an event
        assert relay._outlet is not None
        waiting = relay._outlet._transport.get_write_buffer_size()
        assert 0 < waiting <= WINDOW * LARGEST_EVENT
        (generation,) = running.service.directory._running.values()
        assert generation.delivered <= before + WINDOW
        assert len(running.engine.running_ids) == 1


async def test_a_browser_that_takes_nothing_for_the_bridges_limit_is_dropped_and_counted(
    running: RunningService, bridges: Bridges
) -> None:
    bridge = bridges(running, stall_limit_s=1, metrics_listen=f"127.0.0.1:{free_port()}")
    with await slow_connection(bridge.port) as connection:
        await ask(connection, LONG)
        assert await ended(bridge, 1) == {"stalled": 1}
        await eventually(lambda: running.nothing_runs)
        assert running.count(Outcome.CANCELLED) == running.counted == 1
        assert not (await read_out(connection)).endswith(b"0\r\n\r\n")


async def read_out(connection: socket.socket) -> bytes:
    """What the kernel has of a connection that was dropped."""
    received, loop = bytearray(), asyncio.get_running_loop()
    with suppress(ConnectionResetError):
        while data := await asyncio.wait_for(loop.sock_recv(connection, 65536), 5):
            received.extend(data)
    return bytes(received)


@pytest.mark.parametrize("running", [{"stall_limit_s": 0.4}], indirect=True)
async def test_a_browser_that_takes_nothing_for_the_services_limit_is_told_once_it_reads(
    running: RunningService, bridges: Bridges
) -> None:
    bridge = bridges(running, metrics_listen=f"127.0.0.1:{free_port()}")
    with await slow_connection(bridge.port) as connection:
        await ask(connection, LONG)
        await eventually(lambda: running.tokens_routed > 0)
        (generation,) = running.service.directory._running.values()
        await eventually(lambda: generation.reader is None)
        loop, received = asyncio.get_running_loop(), b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await asyncio.wait_for(loop.sock_recv(connection, 65536), 5)
    assert b"STREAM_STALLED" in received
    assert await ended(bridge, 1) == {"stalled": 1}
