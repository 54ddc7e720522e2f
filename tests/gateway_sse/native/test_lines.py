"""The same answer as lines of JSON and as text."""

import asyncio
import json
from typing import Any

import grpc
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_sse.native.event_id import EventId
from gateway_sse.native.lines import LinesEncoder, TextEncoder
from tests.clients.script import (
    STREAM_ID,
    Fail,
    answer,
    deltas,
    finished,
    reason,
    started,
    tail,
)
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.browsers import PATH
from tests.gateway_sse.conftest import Gateway
from tokenstream_client import Delta, Started

LINES, TEXT = {"accept": "application/x-ndjson"}, {"accept": "text/plain"}
FAILURE = Fail(grpc.StatusCode.INTERNAL, "a bug", [reason("R")])


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    # Not splitlines, which knows more line ends than JSON's lines have.
    return [json.loads(line) for line in response.content.split(b"\n") if line]


async def test_lines_say_what_events_say(service: ScriptedService, http: httpx.AsyncClient) -> None:
    service.script = [started(), *deltas("Hel", "lo"), tail(2, "!"), finished(2)]
    response = await http.post(PATH, json={"prompt": "Hi", "max_delay_ms": 0}, headers=LINES)
    assert response.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    said = lines(response)
    assert [line["event"] for line in said] == ["started", *["token"] * 3, "finished"]
    assert [line["id"] for line in said] == [
        f"{STREAM_ID}:{place}" for place in ("0", "1", "2", "2:tail", "2:end")
    ]
    assert [line.get("token") for line in said[1:4]] == ["Hel", "lo", "!"]
    assert said[0]["model"] == "demo"
    assert said[-1]["usage"]["completion_tokens"] == 2


async def test_lines_go_on_behind_the_last_id(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = [started(), *deltas("Hel", "lo"), tail(2, "!"), finished(2)]
    whole = lines(await http.post(PATH, json={"prompt": "Hi", "max_delay_ms": 0}, headers=LINES))
    for at, line in enumerate(whole[:-1], start=1):
        headers = {**LINES, "last-event-id": line["id"]}
        rest = lines(await http.post(f"{PATH}?max_delay_ms=0", headers=headers))
        tokens = [line.get("token", "") for line in whole[:at] + rest]
        assert "".join(tokens) == "Hello!"


async def test_a_failure_is_the_last_line(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = [started(), *deltas("a"), FAILURE]
    response = await http.post(PATH, json={"prompt": "Hi"}, headers=LINES)
    last = lines(response)[-1]
    assert (last["event"], last["id"]) == ("error", f"{STREAM_ID}:1:end")
    assert last["error"]["reason"] == "R"


async def test_text_is_the_answers_text_and_nothing_else(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = [started(), *deltas("Hel", "", "lo\r\n"), tail(3, "\x00\u2028"), finished(3)]
    response = await http.post(PATH, json={"prompt": "Hi"}, headers=TEXT)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.content.decode() == "Hello\r\n\x00\u2028"


async def test_text_that_fails_is_broken_off(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a"), go_on, FAILURE]
    asked = http.stream("POST", PATH, json={"prompt": "Hi", "max_delay_ms": 0}, headers=TEXT)
    async with asked as response:
        pieces = response.aiter_bytes()
        assert await anext(pieces) == b"a"
        go_on.set()
        # "peer closed connection without sending complete message body"
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            await anext(pieces)


async def test_text_that_is_refused_is_an_error_in_the_one_form(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = [FAILURE]
    response = await http.post(PATH, json={"prompt": "Hi"}, headers=TEXT)
    assert response.status_code == 500
    assert response.json()["error"]["reason"] == "R"


async def test_what_cannot_be_accepted_is_406_and_asks_nothing(
    service: ScriptedService, http: httpx.AsyncClient
) -> None:
    service.script = answer("a")
    response = await http.post(PATH, json={"prompt": "Hi"}, headers={"accept": "image/png"})
    assert response.status_code == 406
    assert response.json()["error"]["field_violations"][0]["field"] == "Accept"
    assert service.requests == []


async def test_http_1_0_gets_its_answer_without_chunks(
    service: ScriptedService, gateway: Gateway
) -> None:
    service.script = answer("Hel", "lo")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"GET {PATH}?prompt=Hi HTTP/1.0\r\nAccept: text/plain\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body == b"Hello"
    writer.close()


STARTED = Started("s", "demo", 3, "")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_is_one_line_and_comes_back_from_it(text: str) -> None:
    encoder = LinesEncoder()
    encoder.started(STARTED)
    line = encoder.delta(Delta(0, 4, (1, 2), text)).decode()
    assert line.splitlines() == [line[:-1]]
    assert json.loads(line) == {"event": "token", "id": "s:6", "token": text}
    assert TextEncoder().delta(Delta(0, 4, (1, 2), text)).decode() == text


def test_a_tail_is_sent_once_however_often_the_reader_comes_back() -> None:
    encoder = LinesEncoder(EventId.parse("s:2:tail"))
    encoder.started(STARTED)
    assert encoder.delta(Delta(0, 2, (), "c")) == b""
