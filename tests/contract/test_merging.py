"""When tokens share a message, and when each has its own: a stepped engine, real delays."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from service.engine.scripted import ScriptedEngine
from service.stream.pacing import ADAPTIVE_STEP_MS, MOST_ADAPTIVE_MS
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import Answer, RunningService
from tokenstream.v1 import generation_pb2 as pb

TEXT = "one token is one byte here"
SMALLEST_DELAY_S = ADAPTIVE_STEP_MS / 1000
DELAY_MS = 300  # far longer than steps that follow each other take, also on a busy machine


def asked(text: str = TEXT, **stream: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, stream=pb.StreamOptions(**stream))


def sizes(got: Answer) -> list[int]:
    """Number of tokens in each message that had any."""
    return [len(delta.token_ids) for delta in got.deltas if delta.token_ids]


class Reading:
    """One stream, its messages one by one, however it is delivered."""

    def __init__(self, got: Answer) -> None:
        self.got = got

    async def until(self, count: int) -> None:
        """Read until there are so many tokens."""
        raise NotImplementedError

    async def end(self) -> None:
        """Read to the end."""
        raise NotImplementedError


class ByCall(Reading):
    def __init__(self, running: RunningService, request: pb.GenerateRequest) -> None:
        super().__init__(Answer())
        self._call = running.generate(request)
        self._messages = aiter(self._call)

    async def until(self, count: int) -> None:
        while self.got.count < count or self.got.started is None:
            self.got.add(await anext(self._messages))

    async def end(self) -> None:
        async for message in self._messages:
            self.got.add(message)


class BySession(Reading):
    @classmethod
    async def begin(cls, running: RunningService, request: pb.GenerateRequest) -> "BySession":
        self = cls(Answer())
        self._talk = Talk.over(running.channel)
        await self._talk.start(1, request)
        self.got = self._talk.told[1].answer
        return self

    async def until(self, count: int) -> None:
        if count == 0:
            await self._talk.started(1)
        await self._talk.tokens(1, count)

    async def end(self) -> None:
        await self._talk.answer(1)
        await self._talk.end()

    _talk: Talk


WAYS = ["Generate", "Session"]


async def begin(way: str, running: RunningService, request: pb.GenerateRequest) -> Reading:
    """Begin a stream, up to its start."""
    reading = (
        ByCall(running, request) if way == "Generate" else await BySession.begin(running, request)
    )
    await reading.until(0)
    return reading


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stream", [{"max_delay_ms": 0}, {}], ids=["delay 0", "idle, none named"])
async def test_without_delay_every_steps_token_comes_at_once_in_a_message_of_its_own(
    stepped: RunningService, way: str, stream: dict[str, Any]
) -> None:
    reading = await begin(way, stepped, asked(**stream))
    waits = []
    for count in range(1, len(TEXT) + 1):
        began = time.monotonic()
        stepped.engine.step()
        await reading.until(count)
        waits.append(time.monotonic() - began)
        assert reading.got.text == TEXT[:count]
    stepped.engine.step()  # the end of text
    await reading.end()
    assert sizes(reading.got) == [1] * (len(TEXT) + 1)
    # Even the smallest delay would keep nearly all of them waiting for longer than this; what else
    # runs on this machine, only some.
    assert sorted(waits)[len(waits) // 4] < SMALLEST_DELAY_S / 2


@pytest.mark.parametrize("way", WAYS)
async def test_with_a_delay_the_first_token_comes_at_once_and_the_others_together(
    stepped: RunningService, way: str
) -> None:
    reading = await begin(way, stepped, asked(max_delay_ms=DELAY_MS))
    began = time.monotonic()
    stepped.engine.step()
    await reading.until(1)
    assert time.monotonic() - began < DELAY_MS / 1000 / 2, "the first does not wait"

    for _ in range(9):
        stepped.engine.step()
    await reading.until(10)
    assert sizes(reading.got) == [1, 9]
    assert time.monotonic() - began < 2 * DELAY_MS / 1000, "nor the others longer than the delay"

    while stepped.engine.running_ids:
        stepped.engine.step()
    await reading.end()
    assert reading.got.text == TEXT
    assert len(sizes(reading.got)) == 3, "an end does not wait, and brings what waits"


@pytest.mark.parametrize("way", WAYS)
async def test_a_full_message_does_not_wait_for_its_delay(
    stepped: RunningService, way: str
) -> None:
    request = asked(max_delay_ms=1000, max_tokens_per_message=4)
    reading = await begin(way, stepped, request)
    stepped.engine.step()
    await reading.until(1)
    began = time.monotonic()
    for count in (5, 9, 13):
        for _ in range(4):
            stepped.engine.step()
        await reading.until(count)
    assert time.monotonic() - began < 0.9
    assert sizes(reading.got) == [1, 4, 4, 4]
    while stepped.engine.running_ids:
        stepped.engine.step()
    await reading.end()
    assert reading.got.text == TEXT


@pytest.mark.parametrize("way", WAYS)
async def test_a_service_that_lags_merges_where_no_delay_is_named_and_not_where_it_is_zero(
    stepped: RunningService, way: str
) -> None:
    named = await begin(way, stepped, asked(max_delay_ms=0))
    unnamed = await begin("Session" if way == "Generate" else "Generate", stepped, asked())
    lagging = asyncio.create_task(keep_lagging(stepped))
    await asyncio.sleep(0)
    try:
        stepped.engine.step()
        await asyncio.gather(named.until(1), unnamed.until(1))
        for count in range(2, 12):
            stepped.engine.step()
            await named.until(count)
        await unnamed.until(11)
    finally:
        lagging.cancel()
    assert sizes(named.got) == [1] * 11
    assert max(sizes(unnamed.got)) > 1
    while stepped.engine.running_ids:
        stepped.engine.step()
    await asyncio.gather(named.end(), unnamed.end())
    assert named.got.text == unnamed.got.text == TEXT


async def keep_lagging(running: RunningService) -> None:
    """Have the delay that an overloaded service has, whatever this one measures."""
    while True:
        running.service.grid.adaptive.delay_ms = MOST_ADAPTIVE_MS
        await asyncio.sleep(0)


@pytest.fixture
async def two(serve: Serve) -> AsyncIterator[tuple[RunningService, Talk]]:
    running = await serve(ScriptedEngine(step_s=None))
    talk = Talk.over(running.channel)
    yield running, talk
    await talk.end()
    assert await talk.call.code() is grpc.StatusCode.OK


async def test_requests_of_a_session_with_the_same_delay_share_their_messages(
    two: tuple[RunningService, Talk],
) -> None:
    running, talk = two
    numbers = range(1, 9)
    for number in numbers:
        await talk.start(number, asked(max_delay_ms=DELAY_MS))
    for number in numbers:
        await talk.started(number)
    running.engine.step()
    for number in numbers:
        await talk.tokens(number, 1)
    before = talk.frames_with_tokens
    for _ in range(10):
        running.engine.step()
    for number in numbers:
        await talk.tokens(number, 11)
    assert talk.frames_with_tokens == before + 1
    for number in numbers:
        await talk.cancel(number)
        await talk.answer(number)
