"""What a socket does not take: messages, and whoever opens it."""

import asyncio

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from gateway_sse.config import GatewaySettings
from tests.clients.script import answer, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.native.sockets import (
    PATH,
    hear,
    hear_to_the_end,
    raw_socket,
    say,
    url_of,
)

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
    ('{"type": "start", "id": "a", "request": {"\\ud800": 1}}', "UNKNOWN_FIELD", "?", "a"),
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
