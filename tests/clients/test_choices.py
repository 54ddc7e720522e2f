"""Several choices by the client, of the real service over the scripted engine."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

import pytest

from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.clients.tcp_proxy import tcp_proxy
from tests.conftest import Serve
from tests.contract.several import texts_of
from tests.service.running import RunningService, eventually
from tokenstream_client import (
    AsyncClient,
    Client,
    ClientOptions,
    Delta,
    Event,
    Finished,
    FinishReason,
    InvalidRequest,
    Started,
    Unavailable,
)

PROMPT = "h\u00e9llo w\u00f6rld \u2014 " * 10
WINDOW = 16
ENDLESS = {"ignore_eos": True, "max_tokens": 900}


@pytest.fixture(params=[True, False], ids=["session", "calls"])
def options(request: pytest.FixtureRequest) -> ClientOptions:
    return ClientOptions(use_sessions=request.param, window_tokens=WINDOW, max_reconnect_delay=0.2)


@pytest.fixture
async def running(serve: Serve) -> RunningService:
    return await serve(ScriptedEngine(step_s=0.001))


def texts(events: Iterable[Event], n: int) -> list[str]:
    """The choices' texts, of which each must be without a gap and have one end, its last event."""
    joined: defaultdict[int, str] = defaultdict(str)
    counts = [0] * n
    ended = set[int]()
    for position, event in enumerate(events):
        if isinstance(event, Started):
            assert position == 0
            continue
        assert event.choice_index not in ended
        if isinstance(event, Finished):
            ended.add(event.choice_index)
            assert event.usage.completion_tokens == counts[event.choice_index]
        else:
            assert event.first_token_index == counts[event.choice_index]
            counts[event.choice_index] += len(event.token_ids)
            joined[event.choice_index] += event.text
    assert ended == set(range(n))
    return [joined[index] for index in range(n)]


def expected(n: int) -> list[str]:
    answer = PROMPT.encode()
    return [answer[index:].decode(errors="replace") for index in range(n)]


async def test_all_choices_come_whole_with_a_window_much_smaller_than_them(
    running: RunningService, options: ClientOptions
) -> None:
    async with AsyncClient(running.target, options=options) as client:
        stream = client.generate(PROMPT, n=4)
        events = [event async for event in stream]
    assert texts(events, 4) == expected(4)
    assert stream.finished is events[-1]
    assert stream.next_token_index == len(PROMPT.encode()) + 1
    await eventually(lambda: running.idle)


async def test_a_thread_reads_all_choices(running: RunningService, options: ClientOptions) -> None:
    def read() -> list[Event]:
        with Client(running.target, options=options) as client:
            return list(client.generate(PROMPT, n=4))

    assert texts(await asyncio.to_thread(read), 4) == expected(4)


async def test_requests_with_one_and_several_choices_at_once_are_all_right(
    running: RunningService, options: ClientOptions
) -> None:
    async with AsyncClient(running.target, options=options) as client:

        async def read(n: int) -> list[Event]:
            return [event async for event in client.generate("abcdef", n=n)]

        numbers = [1, 2, 16, 1, 5, 3] * 3
        answers = await asyncio.gather(*map(read, numbers))
    for n, events in zip(numbers, answers, strict=True):
        assert texts(events, n) == texts_of(n)


async def test_choices_that_end_early_hold_up_none(
    running: RunningService, options: ClientOptions
) -> None:
    text = "a" * 8 * WINDOW + "b"
    async with AsyncClient(running.target, options=options) as client:
        # The first meets its stop string at once, the second leaves that out.
        stream = client.generate("b" + text, n=2, stop="b")
        events = [event async for event in stream]
    assert texts(events, 2) == ["", text[:-1]]


async def test_stop_ends_all_choices_with_what_was_decoded(
    running: RunningService, options: ClientOptions
) -> None:
    async with AsyncClient(running.target, options=options) as client:
        stream, events = client.generate("abc", n=3, **ENDLESS), list[Event]()  # type: ignore[arg-type]
        async for event in stream:
            if isinstance(event, Delta) and not any(isinstance(e, Delta) for e in events):
                await stream.stop()
            events.append(event)
    assert {e.reason for e in events if isinstance(e, Finished)} == {FinishReason.CANCELLED}
    texts(events, 3)
    await eventually(lambda: running.idle)


async def test_leaving_ends_all_choices(running: RunningService, options: ClientOptions) -> None:
    async with AsyncClient(running.target, options=options) as client:
        async with client.generate("abc", n=3, **ENDLESS) as stream:  # type: ignore[arg-type]
            async for event in stream:
                if isinstance(event, Delta):
                    break
        await eventually(lambda: running.idle)
    assert running.count(Outcome.DISCONNECTED) == 3


async def test_a_lost_connection_is_an_error_and_ends_the_work(
    running: RunningService, options: ClientOptions
) -> None:
    async with (
        tcp_proxy(running.target) as proxy,
        AsyncClient(proxy.target, options=options) as client,
    ):
        events = aiter(client.generate("abc", n=3, **ENDLESS))  # type: ignore[arg-type]
        while not isinstance(await anext(events), Delta):
            pass
        proxy.cut()
        with pytest.raises(Unavailable):
            async for _ in events:
                pass
        await eventually(lambda: running.idle)
    assert running.count(Outcome.DISCONNECTED) == 3


async def test_detached_choices_are_refused_by_name(
    running: RunningService, options: ClientOptions
) -> None:
    async with AsyncClient(running.target, options=options) as client:
        with pytest.raises(InvalidRequest) as caught:
            async for _ in client.generate("abc", n=2, on_disconnect="detach"):
                pass
    assert [v.field for v in caught.value.field_violations] == ["stream.on_disconnect"]
