"""Starting and stopping the bridge."""

import asyncio
import signal
import socket

import httpx
import pytest
from httpx_sse import aconnect_sse
from pydantic import ValidationError

from gateway_sse.config import GatewaySettings
from gateway_sse.server import serve
from gateway_sse.streaming.outlet import Outlet
from tests.clients.script import answer, deltas, finished, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.own_process import start_bridge

PATH = "/v1/completions/stream"


async def test_a_taken_port_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert await serve(GatewaySettings(listen=listen)) == 1
    line = f"tokenstream gateway: cannot listen on {listen}: Address already in use\n"
    assert capsys.readouterr().err == line


async def test_a_running_stream_finishes_while_new_ones_are_refused(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a"), go_on, finished(1)]
    gateway = Gateway(settings)
    async with (
        httpx.AsyncClient(base_url=gateway.url) as http,
        aconnect_sse(http, "POST", PATH, json={"prompt": "Hi"}) as source,
    ):
        events = source.aiter_sse()
        await anext(events)
        gateway.stop.set()
        async with httpx.AsyncClient(base_url=gateway.url) as another:
            refused = await another.post(PATH, json={"prompt": "Hi"})
        assert refused.status_code == 503
        assert refused.json()["error"]["reason"] == "GATEWAY_STOPPING"
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["connection"] == "close"
        go_on.set()
        rest = [event async for event in events]
    assert [event.event for event in rest] == ["message", "finished", "message"]
    await asyncio.wait_for(gateway.serving, 10)


async def test_until_others_have_noticed_new_answers_are_still_given(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = answer("a")
    gateway = Gateway(settings.model_copy(update={"drain_wait_s": 0.5}))
    gateway.stop.set()
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.post(PATH, json={"prompt": "Hi"})).status_code == 200
        assert not gateway.streams.refusing
        while not gateway.serving.done() and not gateway.streams.refusing:
            await asyncio.sleep(0.01)
    await asyncio.wait_for(gateway.serving, 10)


async def test_a_cut_ends_the_wait_for_others_too(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    gateway = Gateway(settings.model_copy(update={"drain_wait_s": 600}))
    gateway.stop.set()
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        while (await http.get("/healthz")).status_code and not gateway.streams.draining:
            pass
    gateway.streams.cut()
    await asyncio.wait_for(gateway.serving, 10)


@pytest.mark.parametrize("begun", [True, False])
async def test_what_outlives_the_grace_is_let_go_for_another_replica_or_refused(
    service: ScriptedService, settings: GatewaySettings, begun: bool
) -> None:
    service.script = [started(), asyncio.Event()] if begun else [asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"drain_grace_s": 0.2}))
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        asking = asyncio.create_task(http.post(PATH, json={"prompt": "Hi"}))
        await service.arrived.wait()
        gateway.stop.set()
        response = await asking
    if begun:
        assert response.status_code == 200
        assert response.text.endswith("\n\nretry: 300\n")
        assert "error" not in response.text
    else:
        assert response.status_code == 503
        assert response.json()["error"]["reason"] == "GATEWAY_STOPPING"
        assert response.headers["retry-after"] == "1"
    await asyncio.wait_for(gateway.serving, 10)
    # Closed, so that nobody waits for it; not cancelled, so that it can be read on.
    assert service.cancelled.is_set()
    assert service.stream_cancelled.is_set() == (not begun)


async def test_a_second_signal_waits_for_no_client_that_takes_nothing(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = [started(), *deltas(*["x" * 4096] * 200), finished(0)]
    gateway = Gateway(settings.model_copy(update={"drain_grace_s": 600, "stall_limit_s": 600}))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", gateway.port))
    body = b'{"prompt": "Hi", "max_delay_ms": 0}'
    head = "POST /v1/completions/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(10):
        while not any(relay._outlet and relay._outlet.blocked for relay in gateway.streams._open):  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        gateway.stop.set()
        while not gateway.streams.refusing:
            await asyncio.sleep(0)
        gateway.streams.cut()  # as the second signal does
        await gateway.serving
    client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_status_0_after_its_streams(
    service: ScriptedService, settings: GatewaySettings, number: signal.Signals
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), go_on, finished(0)]
    bridge = await start_bridge(service.target)
    async with (
        httpx.AsyncClient(base_url=bridge.url) as http,
        aconnect_sse(http, "POST", PATH, json={"prompt": "Hi"}) as source,
    ):
        events = source.aiter_sse()
        await anext(events)
        bridge.process.send_signal(number)
        await bridge.logged(b"gateway stopping")
        go_on.set()
        assert [event.event async for event in events] == ["finished", "message"]
    assert await asyncio.wait_for(bridge.process.wait(), 5) == 0
    assert b"Traceback" not in await bridge.log.read()


@pytest.mark.parametrize("listen", ["8080", "localhost", "localhost:", ":80", "h:99999", "h:x"])
def test_a_listen_address_needs_host_and_port(listen: str) -> None:
    with pytest.raises(ValidationError, match="host:port"):
        GatewaySettings(listen=listen)


def test_an_ipv6_address_is_read_without_its_brackets() -> None:
    settings = GatewaySettings(listen="[::1]:8080")
    assert (settings.host, settings.port) == ("::1", 8080)


def test_the_environment_sets_a_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENSTREAM_GATEWAY_DRAIN_GRACE_S", "3")
    assert GatewaySettings().drain_grace_s == 3


REQUEST = b"GET /v1/completions/stream?prompt=Hi HTTP/1."


async def all_that_is_answered(gateway: Gateway, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(request)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


async def test_an_answer_over_http_1_0_ends_with_its_connection_whatever_was_asked(
    service: ScriptedService, gateway: Gateway
) -> None:
    service.script = [started(), *deltas("a"), finished(1)]
    asked = REQUEST + b"0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
    assert (await all_that_is_answered(gateway, asked)).endswith(b"\n\ndata: [DONE]\n\n")


async def test_what_fails_behind_the_head_breaks_the_answer_off(
    service: ScriptedService, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def close(_: Outlet, last: bytes) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Outlet, "close", close)
    service.script = [started(), *deltas("a"), finished(1)]
    answered = await all_that_is_answered(gateway, REQUEST + b"1\r\nHost: x\r\n\r\n")
    assert answered.count(b"HTTP/1.1") == 1
    assert b"GATEWAY_FAILED" not in answered
    assert not answered.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        REQUEST + b"1\r\nHost: x\r\nAuthorization: Bearer SECRET\x01\r\n\r\n",
        b"GET /v1/completions/stream?prompt=SECRET\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/completions/stream?prompt=" + b"SECRET" * 10_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_not_quoted_in_the_log(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    assert b" 400 " in await all_that_is_answered(gateway, sent)
    assert "SECRET" not in caplog.text
