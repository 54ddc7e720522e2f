"""A slow reader is no stalled reader: with asyncio, in a thread, through the bridge."""

import asyncio
import socket
import time
from functools import partial

import pytest

import gateway_sse.server
import gateway_sse.upstream
from gateway_sse.config import GatewaySettings
from gateway_sse.server import bind, serve_on
from gateway_sse.streaming.open_streams import OpenStreams
from service.engine.scripted import ScriptedEngine
from tests.conftest import Serve
from tests.service.running import RunningService
from tokenstream_client import Aborted, AsyncClient, Client, ClientOptions, Delta

STALL_LIMIT_S = 1.0
PAUSE_S = 0.2
# Half the window takes longer than the limit: credit by amount alone would come too late.
WINDOW = 16
TOKENS = 28
OPTIONS = ClientOptions(window_tokens=WINDOW)
assert WINDOW / 2 * PAUSE_S > 1.5 * STALL_LIMIT_S


@pytest.fixture
async def impatient(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> RunningService:
    """A service that soon ends a stalled reader; the client's timings are as much shorter."""
    monkeypatch.setattr("tokenstream_client.session.GRANT_EVERY_S", 0.2)
    monkeypatch.setattr("tokenstream_client.sync.REPORT_EVERY_S", 0.05)
    return await serve(ScriptedEngine(step_s=0.01), stall_limit_s=STALL_LIMIT_S)


async def test_a_slow_reader_reads_to_the_end(impatient: RunningService) -> None:
    async with AsyncClient(impatient.target, options=OPTIONS) as client:
        stream = client.generate("x", ignore_eos=True, max_tokens=TOKENS)
        async for _ in stream:
            await asyncio.sleep(PAUSE_S)
    assert stream.finished is not None
    assert stream.next_token_index == TOKENS


async def test_a_slow_reader_in_a_thread_reads_to_the_end(impatient: RunningService) -> None:
    def read() -> int:
        with Client(impatient.target, options=OPTIONS) as client:
            stream = client.generate("x", ignore_eos=True, max_tokens=TOKENS)
            for _ in stream:
                time.sleep(PAUSE_S)
            assert stream.finished is not None
            return stream.next_token_index

    assert await asyncio.to_thread(read) == TOKENS


async def test_a_slow_reader_of_the_bridge_reads_to_the_end(
    impatient: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, sip, pause_s = 600, 1024, 0.2
    monkeypatch.setattr(
        gateway_sse.upstream, "ClientOptions", partial(ClientOptions, window_tokens=64)
    )
    monkeypatch.setattr(gateway_sse.server, "_SEND_BUFFER_BYTES", 2048)
    settings = GatewaySettings(upstream=impatient.target, listen="127.0.0.1:0", stall_limit_s=1)
    streams, stop, listener = OpenStreams(), asyncio.Event(), bind(settings)
    serving = asyncio.create_task(serve_on(listener, settings, streams, stop))
    loop, began, body = asyncio.get_running_loop(), time.monotonic(), b""
    with socket.socket() as browser:
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        browser.setblocking(False)
        await loop.sock_connect(browser, listener.getsockname())
        query = f"prompt=x&ignore_eos=true&max_tokens={tokens}&max_delay_ms=0"
        head = f"GET /v1/completions/stream?{query} HTTP/1.1\r\nHost: x\r\n\r\n"
        await loop.sock_sendall(browser, head.encode())
        while not body.endswith(b"0\r\n\r\n"):
            sipped = await loop.sock_recv(browser, sip)
            assert sipped, "it was dropped"
            body += sipped
            await asyncio.sleep(pause_s)
    assert time.monotonic() - began > 3 * STALL_LIMIT_S
    assert b"STREAM_STALLED" not in body
    assert f'"completion_tokens": {tokens}'.encode() in body
    assert b"[DONE]" in body
    stop.set()
    await serving


async def test_a_reader_that_takes_nothing_is_ended(impatient: RunningService) -> None:
    async with AsyncClient(impatient.target, options=OPTIONS) as client:
        events = aiter(client.generate("x", ignore_eos=True, max_tokens=TOKENS))
        await anext(events)
        await asyncio.sleep(2.5 * STALL_LIMIT_S)
        with pytest.raises(Aborted) as caught:
            async for _ in events:
                pass
    assert caught.value.reason == "STREAM_STALLED"


async def test_a_reader_in_a_thread_that_takes_nothing_is_ended(impatient: RunningService) -> None:
    def read() -> None:
        with Client(impatient.target, options=OPTIONS) as client:
            events = iter(client.generate("x", ignore_eos=True, max_tokens=TOKENS))
            while not isinstance(next(events), Delta):
                pass
            time.sleep(2.5 * STALL_LIMIT_S)
            with pytest.raises(Aborted) as caught:
                list(events)
            assert caught.value.reason == "STREAM_STALLED"

    await asyncio.to_thread(read)
