"""Many answers on one socket, read by a client that is not ours."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway_sse.config import GatewaySettings
from gateway_sse.native.conversation import Conversation
from tests.clients.script import STREAM_ID, Fail, answer, deltas, finished, reason, started, tail
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway
from tests.service.running import eventually

PATH = "/v1/completions/ws"


def url_of(gateway: Gateway) -> str:
    return f"ws://127.0.0.1:{gateway.port}{PATH}"


@pytest.fixture
async def ws(gateway: Gateway) -> AsyncIterator[ClientConnection]:
    async with connect(url_of(gateway)) as ws:
        yield ws


async def say(ws: ClientConnection, kind: str, **values: Any) -> None:
    await ws.send(json.dumps({"type": kind, **values}))


async def hear(ws: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        said: dict[str, Any] = json.loads(await ws.recv())
    return said


async def hear_to_the_end(ws: ClientConnection) -> list[dict[str, Any]]:
    said = [await hear(ws)]
    while said[-1]["type"] not in ("finished", "error"):
        said.append(await hear(ws))
    return said


def scripted(**scripts: list[Any]) -> Any:
    """A script for each prompt, whose name is the stream's id too."""
    return lambda request: [started(stream_id=request.text), *scripts[request.text]]


async def test_an_answer_is_started_tokens_finished(
    service: ScriptedService, ws: ClientConnection
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("Hel"), go_on, *deltas("", "lo")[1:], finished(2)]
    await say(ws, "start", id="a", request={"prompt": "Hi", "max_delay_ms": 0})
    begun = await hear(ws)
    assert begun == {
        "type": "started",
        "id": "a",
        "event_id": f"{STREAM_ID}:0",
        "stream_id": STREAM_ID,
        "model": "demo",
        "prompt_tokens": 3,
        "client_request_id": "",
    }
    first = {"type": "token", "id": "a", "event_id": f"{STREAM_ID}:1", "token": "Hel"}
    assert await hear(ws) == first
    go_on.set()
    second, end = await hear_to_the_end(ws)
    assert (second["token"], second["event_id"]) == ("lo", f"{STREAM_ID}:2")
    assert (end["type"], end["id"], end["reason"]) == ("finished", "a", "length")
    assert end["event_id"] == f"{STREAM_ID}:2:end"
    assert service.requests[0].text == "Hi"


async def test_any_text_arrives_unchanged(service: ScriptedService, ws: ClientConnection) -> None:
    texts = ["\r", "\n", "\r\n", "\0", "data: x\n\n", "\u2028\u2029\x85", "😀", '"', "\\u0000"]
    service.script = [started(), *deltas(*texts), finished(len(texts))]
    request = {"prompt": "Hi", "max_delay_ms": 0}
    await say(ws, "start", id='"\u2028', request=request)
    said = await hear_to_the_end(ws)
    assert "".join(message.get("token", "") for message in said) == "".join(texts)
    assert {message["id"] for message in said} == {'"\u2028'}


async def test_what_waits_is_said_in_one_message_in_turn_with_others(
    service: ScriptedService, ws: ClientConnection
) -> None:
    go_on = asyncio.Event()
    service.script = scripted(
        long=[*deltas(*"x" * 200), go_on, finished(200)],
        short=[*deltas("s"), finished(1)],
    )
    await say(ws, "start", id="a", request={"prompt": "long"})
    await say(ws, "start", id="b", request={"prompt": "short"})
    said = await hear_to_the_end(ws)
    # All of the short one came although the long one has not ended.
    assert said[-1]["id"] == "b"
    go_on.set()
    said += await hear_to_the_end(ws)
    assert said[-1]["id"] == "a"
    texts = {one: "".join(m.get("token", "") for m in said if m["id"] == one) for one in "ab"}
    assert texts == {"a": "x" * 200, "b": "s"}


async def test_an_id_is_free_again_after_its_end_and_not_before(
    service: ScriptedService, ws: ClientConnection
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), go_on, finished(0)]
    await say(ws, "start", id="a", request={"prompt": "Hi"})
    assert (await hear(ws))["type"] == "started"
    await say(ws, "start", id="a", request={"prompt": "Hi"})
    refused = await hear(ws)
    assert (refused["type"], refused["id"]) == ("error", "a")
    assert refused["error"]["reason"] == "ID_IN_USE"
    go_on.set()
    assert (await hear(ws))["type"] == "finished"
    await say(ws, "start", id="a", request={"prompt": "Hi"})
    assert [m["type"] for m in await hear_to_the_end(ws)] == ["started", "finished"]


async def test_stop_ends_one_answer_and_no_other(
    service: ScriptedService, ws: ClientConnection
) -> None:
    go_on = asyncio.Event()
    service.script = scripted(one=[go_on, finished(0)], two=[go_on, finished(0)])
    for name in ("one", "two"):
        await say(ws, "start", id=name, request={"prompt": name})
        assert (await hear(ws))["type"] == "started"
    for _ in range(3):  # an impatient finger
        await say(ws, "stop", id="one")
    ended = await hear(ws)
    assert (ended["type"], ended["id"], ended["reason"]) == ("finished", "one", "cancelled")
    go_on.set()
    said = await hear_to_the_end(ws)
    while said[-1]["id"] != "two":  # those of the other two stops may come first
        assert said[-1]["error"]["reason"] == "UNKNOWN_ID"
        said = await hear_to_the_end(ws)
    assert said[-1]["reason"] == "length"
    assert len([frame for frame in service.frames if frame.HasField("cancel")]) == 1


async def test_another_socket_reads_on_from_an_event_id_without_loss(
    service: ScriptedService, gateway: Gateway, ws: ClientConnection
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a", "b"), go_on, tail(2, "c"), finished(2)]
    await say(ws, "start", id="a", request={"prompt": "Hi"})
    assert (await hear(ws))["type"] == "started"
    event_id = ""
    while not event_id.endswith(":2"):
        event_id = (await hear(ws))["event_id"]
    await ws.close()
    go_on.set()
    async with connect(url_of(gateway)) as other:
        await say(other, "resume", id="z", last_event_id=event_id, delivery={"max_delay_ms": 0})
        said = await hear_to_the_end(other)
        assert [m.get("token", "") for m in said] == ["", "c", ""]
        assert {m["id"] for m in said} == {"z"}
        await say(other, "resume", id="y", last_event_id=said[1]["event_id"])
        assert [m["type"] for m in await hear_to_the_end(other)] == ["started", "finished"]
        await say(other, "resume", id="x", last_event_id=said[2]["event_id"])
        assert (await hear(other))["error"]["reason"] == "STREAM_AT_END"


async def test_a_paced_answers_failure_waits_for_no_acknowledgement(
    service: ScriptedService, ws: ClientConnection
) -> None:
    stalled = Fail(grpc.StatusCode.ABORTED, "it stalled", [reason("STREAM_STALLED")])
    service.script = [started(), *deltas(*"abcdef"), stalled]
    await say(ws, "start", id="a", request={"prompt": "Hi", "ack_window": 2, "max_delay_ms": 0})
    *said, error = await hear_to_the_end(ws)
    assert "".join(message.get("token", "") for message in said) == "abcdef"
    assert error["error"]["reason"] == "STREAM_STALLED"


async def test_a_paced_answer_waits_for_acknowledgements(
    service: ScriptedService, ws: ClientConnection
) -> None:
    service.script = [started(), *deltas(*"abcdefgh"), finished(8)]
    await say(ws, "start", id="a", request={"prompt": "Hi", "ack_window": 2, "max_delay_ms": 0})
    assert (await hear(ws))["type"] == "started"
    text = ""
    for acknowledged in (2, 4, 6, 8, 10):
        while len(text) < min(acknowledged, 8):
            text += (await hear(ws))["token"]
        assert len(text) == min(acknowledged, 8)
        await say(ws, "ack", id="a", next_token_index=acknowledged)
    assert text == "abcdefgh"
    assert (await hear(ws))["type"] == "finished"


async def test_an_authorized_socket_sends_its_key_with_what_follows(
    service: ScriptedService, ws: ClientConnection
) -> None:
    service.script = answer("a")
    await say(ws, "authorize", api_key="theirs")
    await say(ws, "start", id="a", request={"prompt": "Hi"})
    await hear_to_the_end(ws)
    await say(ws, "authorize", api_key="two words")
    assert (await hear(ws))["error"]["code"] == "UNAUTHENTICATED"
    assert service.keys == ["theirs"]


BAD: list[tuple[str, str, str | None, str | None]] = [
    ("{", "MALFORMED_JSON", None, None),
    ("[1]", "MALFORMED_JSON", None, None),
    ('{"type": "ack", "id": "a", "next_token_index": NaN}', "MALFORMED_JSON", None, None),
    ("[" * 50_000, "MALFORMED_JSON", None, None),
    ("{}", "UNKNOWN_MESSAGE", "type", None),
    ('{"type": ["start"], "id": "a"}', "UNKNOWN_MESSAGE", "type", "a"),
    ('{"type": "begin", "id": "a"}', "UNKNOWN_MESSAGE", "type", "a"),
    ('{"type": "start", "request": {}}', "WRONG_TYPE", "id", None),
    ('{"type": "start", "id": 7, "request": {}}', "WRONG_TYPE", "id", None),
    ('{"type": "start", "id": "\\ud800", "request": {}}', "WRONG_TYPE", "id", None),
    ('{"type": "start", "id": "%s", "request": {}}' % ("x" * 65), "WRONG_TYPE", "id", None),
    ('{"type": "start", "id": "", "request": {}}', "WRONG_TYPE", "id", None),
    ('{"type": "start", "id": "a", "request": []}', "WRONG_TYPE", "request", "a"),
    ('{"type": "start", "id": "a", "request": {}}', "INVALID_REQUEST", "prompt", "a"),
    ('{"type": "start", "id": "a", "request": {"promt": "Hi"}}', "UNKNOWN_FIELD", "promt", "a"),
    ('{"type": "start", "id": "a", "request": {"\\ud800": 1}}', "WRONG_TYPE", "?", "a"),
    ('{"type": "start", "id": "a", "request": {}, "x": 1}', "UNKNOWN_FIELD", "x", "a"),
    ('{"type": "resume", "id": "a", "last_event_id": "?"}', "BAD_EVENT_ID", "last_event_id", "a"),
    ('{"type": "resume", "id": "a"}', "WRONG_TYPE", "last_event_id", "a"),
    ('{"type": "ack", "id": "a", "next_token_index": -1}', "WRONG_TYPE", "next_token_index", "a"),
    ('{"type": "ack", "id": "a", "next_token_index": true}', "WRONG_TYPE", "next_token_index", "a"),
    ('{"type": "ack", "id": "a", "next_token_index": 1}', "UNKNOWN_ID", "id", "a"),
    ('{"type": "stop", "id": "a"}', "UNKNOWN_ID", "id", "a"),
]


async def test_a_bad_message_is_answered_by_an_error_that_names_the_field_and_the_socket_stays_open(
    service: ScriptedService, ws: ClientConnection
) -> None:
    for message, cause, field, identity in BAD:
        await ws.send(message)
        said = await hear(ws)
        assert said["type"] == "error", message
        assert said["error"]["reason"] == cause, message
        fields = [violation["field"] for violation in said["error"]["field_violations"]]
        assert fields == ([] if field is None else [field]), message
        assert said.get("id") == identity, message
    assert service.requests == []
    service.script = answer("a")
    await say(ws, "start", id="a", request={"prompt": "Hi"})
    assert (await hear_to_the_end(ws))[-1]["type"] == "finished"


async def test_a_binary_message_closes_the_socket(ws: ClientConnection) -> None:
    await ws.send(b"{}")
    with pytest.raises(ConnectionClosed) as caught:
        await hear(ws)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1003


async def test_a_message_larger_than_a_body_may_be_closes_the_socket(
    gateway: Gateway, ws: ClientConnection
) -> None:
    await ws.send("x" * (gateway.settings.max_body_bytes + 1))
    with pytest.raises(ConnectionClosed) as caught:
        await hear(ws)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


async def test_a_request_that_is_no_upgrade_is_told_so(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert " 426 " in head
    assert "\r\nupgrade: websocket\r\n" in head
    writer.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://["])
async def test_a_page_from_elsewhere_opens_no_socket(gateway: Gateway, origin: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url_of(gateway), additional_headers={"origin": origin}):
            pass
    assert caught.value.response.status_code == 403
    assert b"ORIGIN_NOT_ALLOWED" in (caught.value.response.body or b"")


async def test_pages_of_the_bridges_own_and_of_listed_origins_open_sockets(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    listed = "https://app.example"
    gateway = Gateway(settings.model_copy(update={"cors_origins": [listed]}))
    for origin in (f"http://127.0.0.1:{gateway.port}", listed):
        async with connect(url_of(gateway), additional_headers={"origin": origin}) as ws:
            await say(ws, "nothing")
            assert (await hear(ws))["type"] == "error"
    gateway.stop.set()
    await gateway.serving


async def test_a_socket_has_no_more_answers_than_the_limit(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = lambda request: [started(stream_id=request.text), asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"max_streams_per_socket": 2, "linger_s": 0}))
    async with connect(url_of(gateway)) as ws:
        for name in ("one", "two", "three"):
            await say(ws, "start", id=name, request={"prompt": name})
        said = {m["id"]: m for m in [await hear(ws) for _ in range(3)]}
        assert said["three"]["error"]["reason"] == "TOO_MANY_STREAMS"
        assert [said[name]["type"] for name in ("one", "two")] == ["started", "started"]
    gateway.stop.set()
    await gateway.serving


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


async def test_a_silent_socket_is_pinged(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    gateway = Gateway(settings.model_copy(update={"keepalive_interval_s": 0.05}))
    reader, writer = await raw_socket(gateway)
    async with asyncio.timeout(2):
        assert await reader.readexactly(4) == b"\x89\x00\x89\x00"  # twice
    writer.close()
    gateway.stop.set()
    await gateway.serving


async def raw_socket(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection after its upgrade, which takes only what a test reads of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def frame(text: str) -> bytes:
    """A client's text message of less than 64 KiB, masked by zeros (RFC 6455, 5.2)."""
    data = text.encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + data


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
