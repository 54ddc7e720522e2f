"""What becomes of a stream whose browser has gone, seen from the service."""

import asyncio
from typing import Any

import pytest

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.gateway_sse.browsers import read_some, reading, text_of
from tests.gateway_sse.scrape import ended, free_port
from tests.gateway_sse.streaming.conftest import Bridges
from tests.service.running import RunningService, eventually

LONG: dict[str, Any] = {"prompt": "abc", "ignore_eos": True, "max_tokens": 1000}


@pytest.fixture
async def running(serve: Serve) -> RunningService:
    return await serve(ScriptedEngine(step_s=0.005))


def metered() -> dict[str, str]:
    return {"metrics_listen": f"127.0.0.1:{free_port()}"}


@pytest.mark.parametrize(
    ("asked", "at_least_s", "at_most_s"),
    [({}, 0.7, 1.0), ({"on_disconnect": "end"}, 0.0, 0.3)],
)
async def test_a_closed_tab_ends_its_answer_in_the_service_within_a_second(
    running: RunningService,
    bridges: Bridges,
    asked: dict[str, str],
    at_least_s: float,
    at_most_s: float,
) -> None:
    bridge = bridges(running, **metered())
    async with reading(bridge.url, **LONG, **asked) as coming:
        await read_some(coming, 3)
    loop = asyncio.get_running_loop()
    left_at = loop.time()
    await eventually(lambda: running.nothing_runs)
    assert at_least_s <= loop.time() - left_at <= at_most_s
    assert running.counted == running.count(Outcome.CANCELLED) == 1
    assert await ended(bridge, 1) == {"left": 1}
    await eventually(lambda: bridge.streams.lingering == 0)


async def test_a_detaching_answer_outlives_its_tab_for_its_time_to_live(
    running: RunningService, bridges: Bridges
) -> None:
    bridge = bridges(running, linger_s=0.1)
    async with reading(bridge.url, **LONG, on_disconnect="detach", time_to_live=0.6) as coming:
        await read_some(coming, 3)
    await asyncio.sleep(0.4)
    assert len(running.engine.running_ids) == 1
    await eventually(lambda: running.nothing_runs, within_s=2)


@pytest.mark.parametrize("elsewhere", [True, False])
async def test_a_browser_that_comes_back_in_time_loses_nothing_and_keeps_its_answer(
    running: RunningService, bridges: Bridges, elsewhere: bool
) -> None:
    one = bridges(running, linger_s=1.5)
    other = bridges(running) if elsewhere else one
    async with reading(one.url, **LONG) as coming:
        events = await read_some(coming, 3)
    await eventually(lambda: one.streams.lingering == 1)
    async with reading(other.url, last_event_id=events[-1].id) as coming:
        await eventually(lambda: one.streams.lingering == 0)  # its time has passed
        events += [event async for event in coming]
    assert text_of(events) == ("abc" * 334)[:1000]
    assert running.count(Outcome.CANCELLED) == 0


async def test_a_browser_that_leaves_again_after_it_came_back_ends_its_answer(
    running: RunningService, bridges: Bridges
) -> None:
    bridge = bridges(running, linger_s=0.2, **metered())
    async with reading(bridge.url, **LONG) as coming:
        events = await read_some(coming, 3)
    async with reading(bridge.url, last_event_id=events[-1].id) as coming:
        await read_some(coming, 2)
    await eventually(lambda: running.nothing_runs, within_s=1)
    assert await ended(bridge, 2) == {"left": 2}


async def test_a_bridge_that_is_cut_off_in_the_middle_leaves_its_streams_to_others(
    running: RunningService, bridges: Bridges
) -> None:
    one, other = bridges(running), bridges(running)
    async with reading(one.url, **LONG) as coming:
        events = await read_some(coming, 3)
        one.serving.cancel()
        events += [event async for event in coming]
    await asyncio.gather(one.serving, return_exceptions=True)
    async with reading(other.url, method="GET", last_event_id=events[-1].id) as coming:
        events += [event async for event in coming]
    assert text_of(events) == ("abc" * 334)[:1000]
