"""A stream through the bridge, over TCP, read by a parser that is not ours."""

import asyncio
import json
import socket
from typing import Any

import grpc
import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse

from gateway_sse.config import GatewaySettings
from tests.clients.script import (
    STREAM_ID,
    Fail,
    answer,
    deltas,
    finished,
    reason,
    retry_in,
    started,
)
from tests.clients.scripted import ScriptedService
from tests.clients.tcp_proxy import tcp_proxy
from tests.gateway_sse.conftest import Gateway
from tokenstream.v1 import generation_pb2 as pb

PATH = "/v1/completions/stream"


async def post(http: httpx.AsyncClient, **body: Any) -> list[ServerSentEvent]:
    async with aconnect_sse(http, "POST", PATH, json=body) as source:
        return [event async for event in source.aiter_sse()]


async def test_an_answer_is_started_tokens_finished_done(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("Hel", "", "lo")
    events = await post(http, prompt="Hi")
    assert [event.event for event in events] == [
        "started",
        "message",
        "message",
        "finished",
        "message",
    ]
    assert events[0].json() == {
        "stream_id": STREAM_ID,
        "model": "demo",
        "prompt_tokens": 3,
        "client_request_id": "",
    }
    assert [events[1].data, events[2].data] == ['{"token": "Hel"}', '{"token": "lo"}']
    assert [events[1].id, events[2].id] == [f"{STREAM_ID}:1", f"{STREAM_ID}:3"]
    assert events[3].json() == {
        "choice_index": 0,
        "reason": "length",
        "stop_string": None,
        "stop_token_id": None,
        "usage": {"prompt_tokens": 3, "completion_tokens": 3, "cached_prompt_tokens": 0},
        "timings": {"time_to_first_token_ms": 25.0, "total_ms": 1500.0},
    }
    assert events[4].data == "[DONE]"


async def test_the_headers_keep_caches_and_proxies_out(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("a")
    response = await http.post(PATH, json={"prompt": "Hi"})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"


async def test_tokens_arrive_while_the_answer_is_still_going_on(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a"), go_on, finished(1)]
    async with aconnect_sse(http, "POST", PATH, json={"prompt": "Hi"}) as source:
        events = source.aiter_sse()
        assert (await anext(events)).event == "started"
        assert (await anext(events)).json() == {"token": "a"}
        go_on.set()
        assert (await anext(events)).event == "finished"


async def test_a_query_and_a_body_ask_the_same(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("a")
    await post(http, prompt="Hi", max_tokens=5, temperature=0.5, stop=["a", "b"], ignore_eos=True)
    query = "prompt=Hi&max_tokens=5&temperature=0.5&stop=a&stop=b&ignore_eos=true"
    async with aconnect_sse(http, "GET", f"{PATH}?{query}") as source:
        events = [event async for event in source.aiter_sse()]
    assert events[-1].data == "[DONE]"
    asked = pb.GenerateRequest(
        text="Hi",
        sampling=pb.SamplingOptions(
            max_tokens=5, temperature=0.5, stop=["a", "b"], ignore_eos=True
        ),
        stream=pb.StreamOptions(
            max_delay_ms=50,
            on_disconnect=pb.ON_DISCONNECT_DETACH,
            time_to_live_ms=30_000,
            credit=256,
        ),
    )
    assert service.requests == [asked, asked]


async def test_the_bridge_merges_tokens_only_if_the_request_does_not_say(
    service: ScriptedService, http: httpx.AsyncClient, settings: GatewaySettings
) -> None:
    service.script = answer("a")
    await post(http, prompt="Hi", max_delay_ms=0)
    await post(http, token_ids=[1, 2])
    assert service.requests[0].stream.max_delay_ms == 0
    assert service.requests[1].stream.max_delay_ms == settings.default_max_delay_ms
    assert list(service.requests[1].token_ids.ids) == [1, 2]


async def test_every_request_has_a_deadline(
    service: ScriptedService, http: httpx.AsyncClient, settings: GatewaySettings
) -> None:
    service.script = answer("a")
    await post(http, prompt="Hi")
    (deadline,) = service.deadlines
    assert deadline is not None
    assert settings.request_timeout_s - 5 < deadline <= settings.request_timeout_s


async def test_a_failure_after_the_start_is_an_error_event(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    failure = Fail(
        grpc.StatusCode.UNAVAILABLE, "the service is stopping", [reason("STOPPING"), retry_in(2)]
    )
    service.script = [started(), *deltas("a"), failure]
    events = await post(http, prompt="Hi")
    assert [event.event for event in events] == ["started", "message", "error", "message"]
    assert events[2].json() == {
        "error": {
            "code": "UNAVAILABLE",
            "reason": "STOPPING",
            "message": "the service is stopping",
            "field_violations": [],
            "retry_after_s": 2.0,
        }
    }
    assert events[3].data == "[DONE]"


async def test_a_caller_that_leaves_cancels_the_call_within_a_second(
    service: ScriptedService, gateway: Gateway
) -> None:
    service.script = [started(), *deltas("a", "b"), asyncio.Event()]
    reader, writer = await open_stream(gateway)
    await reader.readuntil(b'{"token": "b"}')
    writer.close()
    async with asyncio.timeout(1):
        await service.cancelled.wait()
    await all_closed(gateway)


async def test_a_caller_that_leaves_before_the_first_event_cancels_the_call_within_a_second(
    service: ScriptedService, gateway: Gateway
) -> None:
    service.script = [asyncio.Event()]
    _, writer = await open_stream(gateway)
    await service.arrived.wait()
    writer.close()
    async with asyncio.timeout(1):
        await service.cancelled.wait()
    await all_closed(gateway)


async def open_stream(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps({"prompt": "Hi"}).encode()
    writer.write(
        b"POST /v1/completions/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return reader, writer


async def all_closed(gateway: Gateway) -> None:
    async with asyncio.timeout(1):
        while len(gateway.streams):  # the bridge has no event for it
            await asyncio.sleep(0)


async def test_a_get_stream_is_cancelled_too(service: ScriptedService, gateway: Gateway) -> None:
    service.script = [asyncio.Event()]
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /v1/completions/stream?prompt=Hi HTTP/1.1\r\nHost: x\r\n\r\n")
    await service.arrived.wait()
    writer.close()
    async with asyncio.timeout(1):
        await service.cancelled.wait()
    await all_closed(gateway)


async def test_a_caller_that_leaves_while_sending_its_body_is_no_error(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"POST /v1/completions/stream HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    await reader.readuntil(b"100 Continue")  # the bridge waits for the body
    writer.close()
    gateway.stop.set()
    await gateway.serving
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_head_does_not_start_an_answer(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    assert (await http.head(f"{PATH}?prompt=Hi")).status_code == 405
    assert service.requests == []


async def test_all_callers_share_one_session_and_a_closed_tab_ends_only_its_own(
    service: ScriptedService, gateway: Gateway, http: httpx.AsyncClient
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a"), go_on, finished(1)]
    reader, writer = await open_stream(gateway)
    await reader.readuntil(b'{"token": "a"}')
    other = asyncio.create_task(post(http, prompt="Other"))
    async with asyncio.timeout(5):
        while len(service.requests) < 2:
            await asyncio.sleep(0.001)
    writer.close()
    async with asyncio.timeout(1):
        await service.stream_cancelled.wait()
    go_on.set()
    assert (await other)[-1].data == "[DONE]"
    assert service.calls == ["Session"]
    assert [frame.cancel.id for frame in service.frames if frame.HasField("cancel")] == [1]


async def test_a_lost_connection_to_the_service_is_not_noticed_by_the_browser(
    service: ScriptedService,
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a"), go_on, *deltas("a", "b")[1:], finished(2)]
    async with tcp_proxy(service.target) as proxy:
        gateway = Gateway(GatewaySettings(upstream=proxy.target, listen="127.0.0.1:0"))
        async with (
            httpx.AsyncClient(base_url=gateway.url) as http,
            aconnect_sse(http, "POST", PATH, json={"prompt": "Hi"}) as source,
        ):
            events = source.aiter_sse()
            seen = [await anext(events), await anext(events)]
            proxy.cut()
            go_on.set()
            seen += [event async for event in events]
        gateway.stop.set()
        await gateway.serving
    assert [event.event for event in seen] == [
        "started",
        "message",
        "message",
        "finished",
        "message",
    ]
    assert [event.data for event in seen[1:3]] == ['{"token": "a"}', '{"token": "b"}']
    assert len(service.resumed) == 1


async def test_a_browser_that_does_not_read_stops_its_credit(
    service: ScriptedService, gateway: Gateway
) -> None:
    count, text = 4000, "x" * 4096
    service.script = [started(), *deltas(*[text] * count), finished(count)]
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
    writer.write(b"GET /v1/completions/stream?prompt=Hi HTTP/1.1\r\nHost: x\r\n\r\n")
    await service.arrived.wait()
    played = service.sessions[0].playing[1]
    before, now = -1, 0
    async with asyncio.timeout(20):
        while before != now or not now:  # until nothing has moved for a while
            before, now = now, played.delivered
            await asyncio.sleep(0.3)
    # The window, and what the sockets' and the server's own buffers take.
    assert now < count / 2
    assert b"HTTP/1.1 200" in await reader.readline()
    async with asyncio.timeout(20):
        while b"[DONE]" not in await reader.read(1 << 20):
            pass
    assert played.delivered == count
    writer.close()


@pytest.fixture
def quick_comments(service: ScriptedService) -> GatewaySettings:
    return GatewaySettings(upstream=service.target, listen="127.0.0.1:0", keepalive_interval_s=0.05)


async def test_a_silent_stream_gets_comments(
    service: ScriptedService, quick_comments: GatewaySettings
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), go_on, finished()]
    gateway = Gateway(quick_comments)
    reader, writer = await open_stream(gateway)
    async with asyncio.timeout(2):
        await reader.readuntil(b": keep-alive\n")
        go_on.set()
        await reader.readuntil(b"[DONE]")
    writer.close()
    gateway.stop.set()
    await gateway.serving
