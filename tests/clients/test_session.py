"""Requests that share one session: what is sent for them, and what they cost each other."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

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
)
from tests.clients.scripted import ScriptedService
from tests.clients.tcp_proxy import tcp_proxy
from tests.service.running import eventually
from tokenstream.v1 import generation_pb2 as pb
from tokenstream_client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    ClientOptions,
    DeadlineExceeded,
    Delta,
    Finished,
    FinishReason,
    Internal,
    InvalidRequest,
    PermissionDenied,
    Started,
)


@pytest.fixture
async def client(service: ScriptedService) -> AsyncIterator[AsyncClient]:
    """The one of this module always has a session."""
    async with AsyncClient(service.target) as client:
        yield client


def numbered(*texts: str) -> Callable[[pb.GenerateRequest], Iterable[Step]]:
    """A script whose stream's id is its request's."""

    def script(request: pb.GenerateRequest) -> list[Step]:
        begin = started(stream_id=request.client_request_id)
        return [begin, *deltas(*(request.text + text for text in texts)), finished(len(texts))]

    return script


def actions(service: ScriptedService) -> list[str]:
    return [frame.WhichOneof("action") or "" for frame in service.frames]


async def text_of(stream: AsyncStream) -> str:
    return "".join([text async for text in stream.text()])


async def test_all_requests_share_one_call_and_get_their_own_answers(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = numbered("a", "b", "c")
    streams = [client.generate(f"{n}", client_request_id=f"s{n}") for n in range(50)]
    texts = await asyncio.gather(*map(text_of, streams))
    assert texts == [f"{n}a{n}b{n}c" for n in range(50)]
    assert service.calls == ["Session"]
    assert [frame.start.id for frame in service.frames] == list(range(1, 51))


async def test_a_later_request_uses_the_session_that_is_there(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = answer("a")
    await text_of(client.generate("1"))
    await text_of(client.generate("2"))
    assert service.calls == ["Session"]
    assert [frame.start.id for frame in service.frames] == [1, 2]


async def test_a_reader_that_pauses_is_sent_no_more_than_its_window(
    service: ScriptedService,
) -> None:
    texts = [f"{n} " for n in range(100)]
    service.script = answer(*texts)
    async with AsyncClient(service.target, options=ClientOptions(window_tokens=10)) as client:
        events = aiter(client.generate("Hi"))
        assert isinstance(await anext(events), Started)
        (session,) = service.sessions
        await eventually(lambda: session.playing[1].delivered == 10)
        assert not session.playing[1].credited.is_set()  # it waits for credit
        got = [await anext(events) for _ in range(4)]
        assert "credit" not in actions(service)
        got.append(await anext(events))  # half the window
        await eventually(lambda: session.playing[1].delivered == 15)
        got += [event async for event in events]
        assert [e.text for e in got if isinstance(e, Delta)] == texts
        grants = [f.credit for f in service.frames if f.HasField("credit")]
        assert len(grants) <= 20
        assert list(grants[0].token_limits) == [15]
        assert grants[0].ids == [1]


async def test_grants_of_many_streams_go_together(service: ScriptedService) -> None:
    service.script = answer(*"abcdefgh")
    async with AsyncClient(service.target, options=ClientOptions(window_tokens=4)) as client:
        streams = [client.generate("Hi") for _ in range(20)]
        assert await asyncio.gather(*map(text_of, streams)) == ["abcdefgh"] * 20
    grants = [frame.credit for frame in service.frames if frame.HasField("credit")]
    assert max(len(credit.ids) for credit in grants) > 1


async def test_without_a_window_no_credit_is_asked_for(service: ScriptedService) -> None:
    service.script = answer(*"abcdefgh")
    async with AsyncClient(service.target, options=ClientOptions(window_tokens=None)) as client:
        assert await text_of(client.generate("Hi")) == "abcdefgh"
    assert not service.requests[0].stream.HasField("credit")
    assert "credit" not in actions(service)


async def test_a_reader_that_pauses_does_not_hold_up_another(
    service: ScriptedService,
) -> None:
    service.script = answer(*"abcdefgh")
    async with AsyncClient(service.target, options=ClientOptions(window_tokens=4)) as client:
        pausing = aiter(client.generate("1"))
        await anext(pausing)
        assert await text_of(client.generate("2")) == "abcdefgh"


@pytest.mark.parametrize(
    ("on_disconnect", "frames"),
    [
        # By default a request is detachable, so that closing would not end it.
        (None, ["start", "cancel", "close"]),
        ("end", ["start", "close"]),
        ("detach", ["start", "close"]),
    ],
)
async def test_a_reader_that_leaves_closes_and_ends_what_is_not_meant_to_go_on(
    service: ScriptedService,
    client: AsyncClient,
    on_disconnect: str | None,
    frames: list[str],
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    async for event in client.generate("Hi", on_disconnect=on_disconnect):  # type: ignore[arg-type]
        if isinstance(event, Delta):
            break
    async with asyncio.timeout(1):
        await service.cancelled.wait()
    assert actions(service) == frames


async def test_a_stream_that_is_dropped_unread_is_ended(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    stream = client.generate("Hi")
    await service.arrived.wait()
    del stream
    async with asyncio.timeout(1):
        await service.cancelled.wait()


async def test_a_stream_cancelled_before_it_was_sent_costs_nothing(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = answer("a")
    stream = client.generate("1")
    stream.cancel()
    with pytest.raises(Cancelled):
        await text_of(stream)
    assert await text_of(client.generate("2")) == "a"
    assert [request.text for request in service.requests] == ["2"]
    assert actions(service) == ["start"]


async def test_what_still_comes_for_a_stream_that_was_left_is_dropped(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = answer(*"abcdef")
    async with client.generate("1") as stream:
        await anext(aiter(stream))
    assert await text_of(client.generate("2")) == "abcdef"
    with pytest.raises(Cancelled):
        await text_of(stream)


async def test_stop_ends_the_answer_with_a_finish(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    stream, seen = client.generate("Hi"), []
    async for event in stream:
        seen.append(type(event))
        if isinstance(event, Delta):
            await stream.stop()
    assert seen == [Started, Delta, Finished]
    assert stream.finished is not None
    assert stream.finished.reason is FinishReason.CANCELLED
    assert actions(service) == ["start", "cancel"]


async def test_stop_before_the_request_was_sent_follows_it(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), asyncio.Event()]
    stream = client.generate("Hi")
    await stream.stop()
    assert [type(event) async for event in stream][-1] is Finished
    assert actions(service) == ["start", "cancel"]


async def test_one_requests_failure_leaves_the_others_alone(
    service: ScriptedService, client: AsyncClient
) -> None:
    go_on = asyncio.Event()

    def script(request: pb.GenerateRequest) -> list[Step]:
        if request.text == "bad":
            return [Fail(grpc.StatusCode.INVALID_ARGUMENT, "why", [reason("INVALID_REQUEST")])]
        return [started(), go_on, *deltas("a"), finished(1)]

    service.script = script
    good = client.generate("good")
    events = aiter(good)
    await anext(events)
    with pytest.raises(InvalidRequest) as caught:
        await text_of(client.generate("bad"))
    assert caught.value.reason == "INVALID_REQUEST"
    go_on.set()
    assert [type(event) async for event in events] == [Delta, Finished]
    assert service.calls == ["Session"]


async def test_a_start_that_cannot_be_followed_is_its_requests_failure(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = answer("a")
    await text_of(client.generate("1"))
    service.sessions[0].rejects_next = True
    with pytest.raises(InvalidRequest, match="rejected"):
        await text_of(client.generate("2"))


async def test_a_gap_in_the_tokens_is_a_broken_stream(
    service: ScriptedService, client: AsyncClient
) -> None:
    first, _, third = deltas("a", "b", "c")
    service.script = [started(), first, third, finished(3)]
    with pytest.raises(Internal) as caught:
        await text_of(client.generate("Hi"))
    assert caught.value.reason == "BROKEN_STREAM"
    await eventually(lambda: actions(service) == ["start", "cancel", "close"])


async def test_a_service_without_sessions_is_called_for_each_request(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.knows_sessions = False
    service.script = answer("a", "b")
    streams = [client.generate("Hi") for _ in range(3)]
    assert await asyncio.gather(*map(text_of, streams)) == ["ab"] * 3
    assert await text_of(client.generate("Hi")) == "ab"
    assert set(service.calls[:-4]) == {"Session"}
    assert service.calls[-4:] == ["Generate"] * 4
    # It could not read on either, so nothing must outlive its call.
    assert {request.stream.on_disconnect for request in service.requests} == {0}
    assert not service.requests[0].stream.HasField("credit")


async def test_a_large_request_gets_a_call_of_its_own(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = answer("a")
    assert await text_of(client.generate("x" * 300_000)) == "a"
    assert service.calls == ["Generate"]


async def test_without_sessions_a_stream_left_before_its_start_is_still_ended(
    service: ScriptedService,
) -> None:
    go_on = asyncio.Event()
    service.script = [go_on, started(), asyncio.Event()]
    async with AsyncClient(service.target, options=ClientOptions(use_sessions=False)) as client:
        stream = client.generate("Hi")
        await service.arrived.wait()
        stream.cancel()
        go_on.set()
        async with asyncio.timeout(1):
            await service.stream_cancelled.wait()
            await service.cancelled.wait()
        assert service.cancelled_ids == [STREAM_ID]


async def test_without_sessions_a_stream_left_in_the_middle_is_ended_by_its_id(
    service: ScriptedService,
) -> None:
    service.script = [started(), *deltas("a"), asyncio.Event()]
    async with AsyncClient(service.target, options=ClientOptions(use_sessions=False)) as client:
        async with client.generate("Hi") as stream:
            await anext(aiter(stream))
        async with asyncio.timeout(1):
            await service.stream_cancelled.wait()
        assert service.cancelled_ids == [STREAM_ID]


async def test_without_sessions_stop_ends_the_answer_by_its_id(service: ScriptedService) -> None:
    go_on = asyncio.Event()
    service.script = [started(), go_on, finished(0, pb.FINISH_REASON_CANCELLED)]
    async with AsyncClient(service.target, options=ClientOptions(use_sessions=False)) as client:
        stream = client.generate("Hi")
        events = aiter(stream)
        await anext(events)
        await stream.stop()
        await service.stream_cancelled.wait()
        go_on.set()
        assert [type(event) async for event in events] == [Finished]
        assert service.cancelled_ids == [STREAM_ID]


async def test_a_silent_connection_does_not_outlast_the_timeout(service: ScriptedService) -> None:
    service.script = [started(), asyncio.Event()]
    async with (
        tcp_proxy(service.target) as proxy,
        AsyncClient(proxy.target) as client,
    ):
        events = aiter(client.generate("Hi", timeout=0.3))
        await anext(events)
        proxy.hold()
        with pytest.raises(DeadlineExceeded):
            async with asyncio.timeout(5):
                await anext(events)


async def test_a_session_that_is_refused_fails_its_requests_but_those_with_their_own_key(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.session_refusal = Fail(grpc.StatusCode.PERMISSION_DENIED, "no", [reason("NO")])
    service.script = answer("a")
    mine, anothers = client.generate("1"), client.generate("2", api_key="another")
    with pytest.raises(PermissionDenied):
        await text_of(mine)
    assert await text_of(anothers) == "a"
    assert service.keys == ["another"]


async def test_a_second_reader_of_one_stream_is_refused(
    service: ScriptedService, client: AsyncClient
) -> None:
    service.script = [started(), asyncio.Event()]
    stream = client.generate("Hi")
    events = aiter(stream)
    await anext(events)
    waiting = asyncio.create_task(anext(events))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one reader"):
        await anext(aiter(stream))
    with pytest.raises(Cancelled):  # the second one's leaving closed it
        await waiting


async def test_closing_the_client_ends_detachable_requests_on_the_service(
    service: ScriptedService,
) -> None:
    service.script = [started(), asyncio.Event()]
    async with AsyncClient(service.target) as client:
        stream = client.generate("Hi")
        events = aiter(stream)
        await anext(events)
    assert actions(service) == ["start", "cancel", "close"]
    with pytest.raises(Cancelled, match="the client was closed"):
        await anext(events)
    with pytest.raises(RuntimeError, match="closed"):
        client.generate("Hi")
