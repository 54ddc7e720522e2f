"""A browser that lost its connection goes on where it was, on any bridge, without loss."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse

from service.admission.callers import key_line, new_key
from service.engine.scripted import ScriptedEngine
from tests.conftest import Serve
from tests.gateway_sse.browsers import PATH, read, read_some, reading, text_of
from tests.gateway_sse.streaming.conftest import Bridges
from tests.service.running import RunningService, eventually

PROMPT = "Grüße,\r\n😀 data: STOIC ST\x01 STOP and no more"
EACH: dict[str, Any] = {"max_delay_ms": 0, "max_tokens_per_message": 1}


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_read_on_from_every_one_of_its_events_is_byte_for_byte_the_same(
    serve: Serve, bridges: Bridges, method: str
) -> None:
    running = await serve(ScriptedEngine(step_s=0.002))
    one, other = bridges(running), bridges(running)
    events = await read(one.url, prompt=PROMPT, stop=["STOP"], **EACH)
    text = PROMPT.partition("STOP")[0]
    assert text_of(events) == text
    assert events[-2].event == "finished"
    assert len(events) > 20
    for at, event in enumerate(events[:-2], start=1):
        rest = await read(other.url, method=method, last_event_id=event.id, **EACH)
        assert rest[0].event == "started"
        assert text_of(events[:at]) + text_of(rest) == text
        assert rest[-2].json() == events[-2].json()
        assert rest[-2].id == events[-2].id


async def test_an_answer_cut_after_every_event_while_it_is_decoded_is_joined_the_same(
    serve: Serve, bridges: Bridges
) -> None:
    running = await serve(ScriptedEngine(step_s=0.01))
    replicas = [bridges(running), bridges(running)]
    query = {"prompt": PROMPT, "stop": "STOP", **EACH}
    events: list[ServerSentEvent] = []
    last_event_id = None
    while not events or events[-1].event != "finished":
        method = "GET" if len(events) % 2 else "POST"
        asked = query if method == "GET" or last_event_id is None else EACH
        url = replicas[len(events) // 2 % 2].url
        async with reading(url, method=method, last_event_id=last_event_id, **asked) as coming:
            begun, event = await read_some(coming, 2)
        assert begun.event == "started"
        assert begun.id == (last_event_id or begun.id)
        events.append(event)
        last_event_id = event.id
    assert text_of(events) == PROMPT.partition("STOP")[0]
    assert len(events) > 8


async def test_text_that_a_cancel_sets_free_comes_once_to_whoever_reads_on(
    stepped: RunningService, bridges: Bridges
) -> None:
    one, other = bridges(stepped), bridges(stepped)
    async with reading(one.url, prompt="abcdefgh", stop=["STOP"], **EACH) as coming:
        events = [await anext(coming)]
        for _ in range(5):
            stepped.engine.step()
        events.append(await anext(coming))  # the rest might be a stop string's beginning
        await eventually(lambda: stepped.tokens_routed == 5)
        async with httpx.AsyncClient(base_url=other.url) as http:
            stream_id = events[0].json()["stream_id"]
            assert (await http.delete(f"/v1/streams/{stream_id}")).status_code == 204
        events += [event async for event in coming]
    assert text_of(events) == "abcde"
    assert events[-3].id.endswith(":tail")
    assert events[-2].json()["reason"] == "cancelled"
    for at, event in enumerate(events[:-2], start=1):
        rest = await read(other.url, last_event_id=event.id, **EACH)
        assert text_of(events[:at]) + text_of(rest) == "abcde"


async def test_after_the_end_nothing_is_left_and_bad_or_others_ids_are_refused(
    running: RunningService, bridges: Bridges
) -> None:
    bridge = bridges(running)
    events = await read(bridge.url, prompt="ab")
    async with httpx.AsyncClient(base_url=bridge.url) as http:

        async def resume(last_event_id: str, method: str = "GET") -> httpx.Response:
            return await http.request(method, PATH, headers={"last-event-id": last_event_id})

        assert events[-2].id.endswith(":end")
        for method in ("GET", "POST"):
            assert (await resume(events[-2].id, method)).status_code == 204
        bad = await resume("nonsense")
        assert bad.status_code == 400
        assert bad.json()["error"]["field_violations"][0]["field"] == "Last-Event-ID"
        unknown = await resume("unknown:3")
        assert unknown.status_code == 404
        too_far = await resume(events[0].id.replace(":0", ":4000"))
        assert too_far.status_code == 400
        assert too_far.json()["error"]["code"] == "OUT_OF_RANGE"


async def test_a_body_that_is_sent_again_says_how_the_rest_is_delivered(
    stepped: RunningService, bridges: Bridges
) -> None:
    bridge = bridges(stepped, linger_s=0.05)
    wanted: dict[str, Any] = {"prompt": "abcdefgh", "on_disconnect": "detach", **EACH}
    events, last = [], None
    for _ in range(3):  # each connection breaks behind its first text
        async with reading(bridge.url, last_event_id=last, **wanted) as coming:
            await anext(coming)
            stepped.engine.step()
            events.append(await anext(coming))
            last = events[-1].id
        await eventually(lambda: len(bridge.streams) == 0)
        await asyncio.sleep(0.1)  # longer than it would linger
    assert text_of(events) == "abc"
    assert stepped.engine.running_ids


async def test_nobody_else_acknowledges_for_a_reader(
    serve: Serve, bridges: Bridges, tmp_path: Path
) -> None:
    mine, theirs = new_key(), new_key()
    keys = tmp_path / "keys"
    keys.write_text(key_line("mine", mine) + "\n" + key_line("theirs", theirs) + "\n")
    bridge = bridges(await serve(ScriptedEngine(step_s=0.01), api_keys_file=keys))
    wanted = {"prompt": "abcdef", "ack_window": 1, "max_delay_ms": 0}
    async with httpx.AsyncClient(base_url=bridge.url, timeout=5) as http:

        async def acknowledge(stream_id: str, key: str) -> int:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            ack = {"next_token_index": 6}
            path = f"/v1/streams/{stream_id}/ack"
            return (await http.post(path, json=ack, headers=headers)).status_code

        headers = {"authorization": f"Bearer {mine}"}
        async with aconnect_sse(http, "POST", PATH, json=wanted, headers=headers) as source:
            coming = source.aiter_sse()
            stream_id = (await anext(coming)).json()["stream_id"]
            assert await acknowledge(stream_id, theirs) == 404
            assert await acknowledge(stream_id, "") == 404
            assert await acknowledge(stream_id, mine) == 204
            assert text_of([event async for event in coming]) == "abcdef"


async def test_somebody_elses_stream_is_unknown(
    serve: Serve, bridges: Bridges, tmp_path: Path
) -> None:
    mine, theirs = new_key(), new_key()
    keys = tmp_path / "keys"
    keys.write_text(key_line("mine", mine) + "\n" + key_line("theirs", theirs) + "\n")
    bridge = bridges(await serve(api_keys_file=keys), api_key=mine)
    async with httpx.AsyncClient(base_url=bridge.url) as http:

        async def ask(key: str, **headers: str) -> httpx.Response:
            bearer = {"authorization": f"Bearer {key}"}
            return await http.post(PATH, json={"prompt": "ab"}, headers={**bearer, **headers})

        event_id = (await ask(mine)).text.split("id: ")[1].split("\n")[0]
        last_event_id = {"last-event-id": event_id}
        assert (await ask(mine, **last_event_id)).status_code == 200
        refused = await ask(theirs, **last_event_id)
        assert refused.status_code == 404
        assert refused.json()["error"]["reason"] == "STREAM_NOT_FOUND"
        assert (await ask("unknown", **last_event_id)).status_code == 401


async def test_of_two_readers_the_older_is_told_that_the_stream_was_taken_over(
    stepped: RunningService, bridges: Bridges
) -> None:
    one, other = bridges(stepped), bridges(stepped)
    async with reading(one.url, prompt="abc", **EACH) as older:
        begun = await anext(older)
        stepped.engine.step()
        first = await anext(older)
        async with reading(other.url, last_event_id=first.id, **EACH) as newer:
            await anext(newer)
            last = [event async for event in older]
            assert [event.event for event in last] == ["error", "message"]
            assert last[0].json()["error"]["reason"] == "STREAM_TAKEN_OVER"
            # So that an EventSource does not take it back again, and so on for ever.
            assert last[0].id == f"{begun.json()['stream_id']}:1:end"
            stepped.engine.step()
            assert (await anext(newer)).json() == {"token": "b"}


async def into(events: list[ServerSentEvent], coming: AsyncIterator[ServerSentEvent]) -> None:
    async for event in coming:
        events.append(event)  # noqa: PERF401  # what came before a failure stays


async def test_a_killed_bridges_streams_are_read_on_at_another(
    serve: Serve, bridges: Bridges
) -> None:
    running = await serve(ScriptedEngine(step_s=0.002))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from gateway_sse.config import GatewaySettings;"
        "from gateway_sse.server import main; main(GatewaySettings())",
        env={
            **os.environ,
            "TOKENSTREAM_GATEWAY_UPSTREAM": running.target,
            "TOKENSTREAM_GATEWAY_LISTEN": "127.0.0.1:0",
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    line = b""
    while b"listening on http://" not in line:
        line = await asyncio.wait_for(process.stderr.readline(), 20)
    url = line.split(b"listening on ")[1].split(b",")[0].decode()
    prompt, count = "abcdefghij", 600
    events = []
    async with reading(url, prompt=prompt, ignore_eos=True, max_tokens=count, **EACH) as coming:
        events += await read_some(coming, 50)
        process.kill()
        with pytest.raises(httpx.TransportError):
            await into(events, coming)
    await process.wait()
    await process.stderr.read()
    rest = await read(bridges(running).url, method="GET", last_event_id=events[-1].id)
    assert text_of(events) + text_of(rest) == prompt * (count // len(prompt))
    assert rest[-2].json()["reason"] == "length"


async def test_a_drained_bridge_lets_streams_go_that_another_reads_on(
    stepped: RunningService, bridges: Bridges
) -> None:
    one, other = bridges(stepped, drain_grace_s=0.1), bridges(stepped)
    async with reading(one.url, prompt="abc", **EACH) as coming:
        events = [await anext(coming)]
        stepped.engine.step()
        events.append(await anext(coming))
        one.stop.set()
        assert [event async for event in coming] == []
    await one.serving
    assert stepped.engine.running_ids, "it was ended"
    async with reading(other.url, last_event_id=events[-1].id, **EACH) as coming:
        for _ in range(3):
            stepped.engine.step()
        events += [event async for event in coming]
    assert text_of(events) == "abc"
