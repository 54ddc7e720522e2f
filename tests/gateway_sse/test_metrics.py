"""What is counted, and once."""

import asyncio
import json
from typing import Any

import grpc
import httpx
import pytest
from websockets.asyncio.client import connect

from gateway_sse.config import GatewaySettings
from tests.clients.script import Fail, Step, answer, deltas, finished, reason, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.browsers import PATH, read, reading
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.scrape import ended, free_port, samples

TAKEN_OVER = Fail(grpc.StatusCode.ABORTED, "elsewhere", [reason("STREAM_TAKEN_OVER")])
STALLED = Fail(grpc.StatusCode.ABORTED, "too slow", [reason("STREAM_STALLED")])
FAILED = Fail(grpc.StatusCode.INTERNAL, "a bug", [reason("R")])


@pytest.fixture
def settings(service: ScriptedService) -> GatewaySettings:
    return GatewaySettings(
        upstream=service.target,
        listen="127.0.0.1:0",
        metrics_listen=f"127.0.0.1:{free_port()}",
        linger_s=0,
    )


@pytest.mark.parametrize(
    ("script", "outcome", "status"),
    [
        (answer("a", "b"), "complete", 200),
        ([FAILED], "refused", 500),
        ([started(), *deltas("a"), FAILED], "failed", 200),
        ([started(), TAKEN_OVER], "taken_over", 200),
        ([started(), STALLED], "stalled", 200),
    ],
)
async def test_each_answer_is_counted_once_by_its_end(
    service: ScriptedService, gateway: Gateway, script: Any, outcome: str, status: int
) -> None:
    service.script = script
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.post(PATH, json={"prompt": "Hi"})).status_code == status
    assert await ended(gateway, 1) == {outcome: 1}
    found = await samples(gateway)
    assert found["tokenstream_gateway_responses_total", PATH, str(status)] == 1
    first = found["tokenstream_gateway_time_to_first_token_seconds_count",]
    assert first == (1 if outcome in ("complete", "failed") else 0)


async def test_one_that_left_is_counted_once_and_open_ones_are_gauged(
    service: ScriptedService, gateway: Gateway
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    async with reading(gateway.url, prompt="Hi") as events:
        await anext(events)
        assert (await samples(gateway))["tokenstream_gateway_streams_open",] == 1
    assert await ended(gateway, 1) == {"left": 1}
    assert (await samples(gateway))["tokenstream_gateway_streams_open",] == 0


async def test_one_that_was_let_go_is_counted_as_moved(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    service.script = [started(), asyncio.Event()]
    gateway = Gateway(settings.model_copy(update={"drain_grace_s": 0.3}))
    async with reading(gateway.url, prompt="Hi") as events:
        await anext(events)
        gateway.streams.cut()
        assert [event async for event in events] == []
    assert await ended(gateway, 1) == {"moved": 1}
    gateway.stop.set()
    await gateway.serving


async def test_answers_on_a_socket_are_counted_once_each(
    service: ScriptedService, gateway: Gateway
) -> None:
    scripts: dict[str, list[Step]] = {
        "complete": [started(stream_id="complete"), *deltas("a"), finished(1)],
        "refused": [FAILED],
        "failed": [started(stream_id="failed"), FAILED],
        "left": [started(stream_id="left"), asyncio.Event()],
    }
    service.script = lambda request: scripts[request.text]
    async with connect(f"ws://127.0.0.1:{gateway.port}/v1/completions/ws") as ws:
        for name in ("complete", "refused", "failed", "left"):
            start = {"type": "start", "id": name, "request": {"prompt": name}}
            await ws.send(json.dumps(start))
        await ended(gateway, 3)
        assert (await samples(gateway))["tokenstream_gateway_streams_open",] == 1
    counted = await ended(gateway, 4)
    assert counted == {"complete": 1, "refused": 1, "failed": 1, "left": 1}
    name = "tokenstream_gateway_time_to_first_token_seconds_count"
    assert (await samples(gateway))[name,] == 1


async def test_paths_that_nobody_knows_are_one_label(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        for path in ("/one", "/two"):
            await http.get(path)
    found = await samples(gateway)
    assert found["tokenstream_gateway_responses_total", "other", "404"] == 2


async def test_what_browsers_saw_becomes_histograms(gateway: Gateway) -> None:
    seen = {"first_token_ms": 120, "last_token_ms": 2300.5, "longest_gap_ms": 80}
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.post("/v1/perceived", json=seen)).status_code == 204
        for bad in ({**seen, "first_token_ms": -1}, {**seen, "last_token_ms": "1"}, {}):
            refused = await http.post("/v1/perceived", json=bad)
            assert refused.status_code == 400
            assert refused.json()["error"]["field_violations"]
    found = await samples(gateway)
    for name, value in (("first_token", 0.12), ("last_token", 2.3005), ("longest_gap", 0.08)):
        assert found[f"tokenstream_gateway_perceived_{name}_seconds_count",] == 1
        assert found[f"tokenstream_gateway_perceived_{name}_seconds_sum",] == pytest.approx(value)


async def test_the_metrics_port_is_free_again_after_the_end(
    service: ScriptedService, settings: GatewaySettings
) -> None:
    for _ in range(2):
        gateway = Gateway(settings)
        service.script = answer("a")
        await read(gateway.url, prompt="Hi")
        assert await ended(gateway, 1) == {"complete": 1}
        gateway.stop.set()
        await gateway.serving
