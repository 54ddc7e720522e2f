"""Many answers on one socket, read by a client that is not ours."""

import asyncio
from typing import Any

import grpc
from websockets.asyncio.client import ClientConnection, connect

from tests.clients.script import STREAM_ID, Fail, answer, deltas, finished, reason, started, tail
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.native.sockets import (
    hear,
    hear_to_the_end,
    say,
    url_of,
)


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
