"""A connection that is lost in the middle of an answer, and what its reader notices of it."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from tests.clients.script import (
    STREAM_ID,
    Fail,
    Step,
    answer,
    deltas,
    finished,
    reason,
    started,
    tail,
)
from tests.clients.scripted import ScriptedService
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.service.running import eventually
from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import (
    Aborted,
    AsyncClient,
    Cancelled,
    ClientOptions,
    DeadlineExceeded,
    Delta,
    Event,
    Finished,
    InvalidRequest,
    NotFound,
    Started,
    Unavailable,
)


@pytest.fixture
async def proxy(service: ScriptedService) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(service.target) as proxy:
        yield proxy


@pytest.fixture(params=[True, False], ids=["session", "calls"])
def options(request: pytest.FixtureRequest) -> ClientOptions:
    return ClientOptions(use_sessions=request.param, max_reconnect_delay=0.2)


@pytest.fixture
async def client(proxy: TcpProxy, options: ClientOptions) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(proxy.target, options=options) as client:
        yield client


def joined(events: list[Event]) -> tuple[str, list[int]]:
    text, tokens = "", list[int]()
    for event in events:
        if isinstance(event, Delta):
            text += event.text
            tokens += event.token_ids
    return text, tokens


async def read(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(events) for _ in range(count)]


async def test_a_lost_connection_is_a_gap_in_time_and_nothing_else(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas(*"abc"), go_on, *deltas(*"abcdef")[3:], finished(6)]
    events = aiter(client.generate("Hi", max_delay_ms=7, reading_tokens_per_second=4.5))
    got = await read(events, 4)
    proxy.cut()
    go_on.set()
    got += [event async for event in events]
    assert joined(got) == ("abcdef", [100, 101, 102, 103, 104, 105])
    assert [type(event) for event in got] == [Started, *[Delta] * 6, Finished]
    (resumed,) = service.resumed
    assert (resumed.stream_id, resumed.next_token_index) == (STREAM_ID, 3)
    # How fast it is read stays as the request had it: the service refuses it in a Resume.
    assert not resumed.stream.HasField("reading_tokens_per_second")
    assert resumed.stream.max_delay_ms == 7
    assert resumed.stream.on_disconnect == 0
    assert not resumed.stream.HasField("time_to_live_ms")
    assert len(service.requests) == 1


async def test_a_connection_lost_again_and_again_is_resumed_each_time(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    gates = [asyncio.Event() for _ in "abcd"]
    steps: list[Step] = [started()]
    for delta, gate in zip(deltas(*"abcd"), gates, strict=True):
        steps += [delta, gate]
    service.script = [*steps, finished(4)]
    events = aiter(client.generate("Hi"))
    got = await read(events, 1)
    for gate in gates:
        got += await read(events, 1)
        proxy.cut()
        gate.set()
    got += [event async for event in events]
    assert joined(got) == ("abcd", [100, 101, 102, 103])
    assert [request.next_token_index for request in service.resumed] == [1, 2, 3, 4]


async def test_the_text_held_until_the_end_comes_once(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a"), tail(1, "z"), go_on, finished(1)]
    events = aiter(client.generate("Hi"))
    got = await read(events, 3)
    proxy.cut()
    go_on.set()
    got += [event async for event in events]
    assert joined(got) == ("az", [100])
    assert service.resumed[0].next_token_index == 1


async def test_all_streams_of_a_session_are_resumed_in_the_next_one(
    service: ScriptedService, proxy: TcpProxy
) -> None:
    go_on = asyncio.Event()

    def script(request: pb.GenerateRequest) -> list[Step]:
        first, second = deltas(request.text, request.text)
        return [started(stream_id=f"s{request.text}"), first, go_on, second, finished(2)]

    service.script = script
    async with AsyncClient(proxy.target) as client:
        streams = [aiter(client.generate(f"{n}")) for n in range(20)]
        for events in streams:
            await read(events, 2)
        proxy.cut()
        go_on.set()
        rests = [[event async for event in events] for events in streams]
    assert [joined(rest)[0] for rest in rests] == [f"{n}" for n in range(20)]
    assert service.calls == ["Session", "Session"]
    assert {request.stream_id for request in service.resumed} == {f"s{n}" for n in range(20)}


async def test_a_resumed_stream_keeps_its_window(service: ScriptedService, proxy: TcpProxy) -> None:
    service.script = answer(*"abcdefghij")
    async with AsyncClient(proxy.target, options=ClientOptions(window_tokens=4)) as client:
        stream = client.generate("Hi")
        events = aiter(stream)
        got = await read(events, 2)  # the start, and one of four tokens
        await eventually(lambda: stream._delivery.answer.next_token_index == 4)
        proxy.cut()
        await eventually(lambda: len(service.resumed) == 1)
        assert service.resumed[0].next_token_index == 4
        assert service.resumed[0].stream.credit == 1  # three of the window's four wait here
        got += [event async for event in events]
    assert joined(got)[0] == "abcdefghij"


async def test_a_stream_that_is_gone_tells_how_much_of_it_had_come(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    service.script = [started(), *deltas("a", "b"), asyncio.Event()]
    events = aiter(client.generate("Hi"))
    await read(events, 3)
    service.streams.clear()
    proxy.cut()
    with pytest.raises(Unavailable, match="after 2 tokens") as caught:
        await anext(events)
    assert caught.value.reason == "STREAM_LOST"


async def test_a_service_that_does_not_come_back_within_the_time_to_live_is_a_lost_stream(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    events = aiter(client.generate("Hi", time_to_live=0.5))
    await read(events, 2)
    proxy.refusing = True
    proxy.cut()
    with pytest.raises(Unavailable) as caught:
        async with asyncio.timeout(5):
            await anext(events)
    assert caught.value.reason == "STREAM_LOST"
    assert service.requests[0].stream.time_to_live_ms == 500


async def test_a_timeout_ends_the_tries_to_resume(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    events = aiter(client.generate("Hi", timeout=0.5))
    await read(events, 2)
    proxy.refusing = True
    proxy.cut()
    with pytest.raises(DeadlineExceeded):
        async with asyncio.timeout(5):
            await anext(events)


async def test_a_service_that_is_not_ready_yet_is_asked_again(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    go_on = asyncio.Event()
    service.script = [started(), *deltas("a"), go_on, finished(1)]
    events = aiter(client.generate("Hi"))
    await read(events, 2)
    steps = service.streams[STREAM_ID]
    service.streams[STREAM_ID] = [
        Fail(grpc.StatusCode.UNAVAILABLE, "loading", [reason("ENGINE_LOADING")])
    ]
    proxy.cut()
    waiting = asyncio.create_task(anext(events))
    await eventually(lambda: len(service.resumed) == 1)
    service.streams[STREAM_ID] = steps
    go_on.set()
    assert isinstance(await waiting, Finished)
    assert len(service.resumed) == 2


@pytest.mark.parametrize("way", ["the request", "the client"])
async def test_what_must_end_with_its_connection_is_not_resumed(
    service: ScriptedService, proxy: TcpProxy, way: str, options: ClientOptions
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    if way == "the client":
        options = ClientOptions(use_sessions=options.use_sessions, resume=False)
    async with AsyncClient(proxy.target, options=options) as client:
        stream = client.generate("Hi", on_disconnect="end" if way == "the request" else None)
        events = aiter(stream)
        await read(events, 2)
        proxy.cut()
        with pytest.raises(Unavailable) as caught:
            await anext(events)
        assert caught.value.reason == ""
    assert service.resumed == []
    assert service.requests[0].stream.on_disconnect != pb.ON_DISCONNECT_DETACH
    assert not service.requests[0].stream.HasField("time_to_live_ms")


async def test_a_request_without_a_start_yet_is_sent_again(
    service: ScriptedService, proxy: TcpProxy, client: AsyncClient
) -> None:
    go_on = asyncio.Event()
    service.script = [go_on, *answer("a")]
    events = aiter(client.generate("Hi"))
    waiting = asyncio.create_task(anext(events))
    await service.arrived.wait()
    proxy.cut()
    go_on.set()
    assert isinstance(await waiting, Started)
    assert joined([event async for event in events])[0] == "a"
    assert (len(service.requests), service.resumed) == (2, [])


async def test_a_stop_asked_for_is_remembered_over_a_lost_connection(
    service: ScriptedService, proxy: TcpProxy
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    async with AsyncClient(proxy.target) as client:
        stream = client.generate("Hi")
        events = aiter(stream)
        await read(events, 2)
        proxy.cut()
        await stream.stop()
        assert [type(event) async for event in events] == [Finished]


async def test_a_stream_left_while_the_connection_is_down_is_ended_once_it_is_back(
    service: ScriptedService, proxy: TcpProxy
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    async with AsyncClient(proxy.target) as client:
        stream = client.generate("Hi")
        events = aiter(stream)
        await read(events, 2)
        proxy.refusing = True
        proxy.cut()
        await service.sessions[0].closed.wait()
        waiting = asyncio.create_task(anext(events))
        await eventually(lambda: proxy.connections > 1)
        stream.cancel()
        with pytest.raises(Cancelled):
            await waiting
        proxy.refusing = False
        await eventually(lambda: service.cancelled_ids == [STREAM_ID])


async def test_an_id_can_be_read_on_by_another_client(
    service: ScriptedService, options: ClientOptions
) -> None:
    service.script = answer(*"abcd")
    async with AsyncClient(service.target, options=options) as first:
        stream = first.generate("Hi", on_disconnect="detach")
        async for event in stream:
            if isinstance(event, Delta) and stream.next_token_index == 2:
                break
        assert stream.started is not None
    async with AsyncClient(service.target, options=options) as second:
        resumed = second.resume(
            stream.started.stream_id,
            next_token_index=stream.next_token_index,
            max_delay_ms=20,
        )
        got = [event async for event in resumed]
    assert [type(event) for event in got] == [Started, Delta, Delta, Finished]
    assert joined(got) == ("cd", [102, 103])
    assert service.resumed[0].stream.max_delay_ms == 20
    assert service.cancelled_ids == []  # leaving the first let it go on


async def test_a_stream_that_is_not_there_cannot_be_resumed(
    service: ScriptedService, client: AsyncClient
) -> None:
    with pytest.raises(NotFound) as caught:
        await anext(aiter(client.resume("nothing")))
    assert caught.value.reason == "STREAM_NOT_FOUND"
    with pytest.raises(InvalidRequest, match="next_token_index"):
        client.resume("nothing", next_token_index=-1)


@pytest.mark.parametrize("cause", ["STREAM_TAKEN_OVER", "STREAM_STALLED"])
async def test_a_stream_that_the_service_gave_up_says_why(
    service: ScriptedService, client: AsyncClient, cause: str
) -> None:
    service.script = [started(), Fail(grpc.StatusCode.ABORTED, "why", [reason(cause)])]
    events = aiter(client.generate("Hi"))
    await anext(events)
    with pytest.raises(Aborted) as caught:
        await anext(events)
    assert caught.value.reason == cause
    assert service.resumed == []
