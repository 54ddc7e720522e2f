"""One replica stops while another is ready behind the same name. Both are real services."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from service.engine.scripted import ScriptedEngine
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.conftest import Serve
from tests.service.running import RunningService, eventually
from tokenstream_client import (
    AsyncClient,
    AsyncStream,
    ClientOptions,
    Finished,
    NotFound,
    Unavailable,
)
from tokenstream_client.connections import MOST_STOPPING

TOKENS = 300
STEP_S = 0.005


@dataclass
class Rollout:
    """A name that leads to the old replica first; after `stop`, new connections to the new one."""

    old: RunningService
    new: RunningService
    name: TcpProxy

    async def stop(self) -> None:
        self.name.redirect(self.new.target)
        await stopping(self.old)

    async def old_has_ended(self) -> None:
        assert self.old.running is not None
        await asyncio.wait_for(asyncio.shield(self.old.running), 10)


async def stopping(running: RunningService) -> None:
    running.service.stop()
    await eventually(lambda: running.service.gate._state.name == "STOPPING")


@pytest.fixture
async def rollout(serve: Serve) -> AsyncIterator[Rollout]:
    old, new = [
        await serve(
            ScriptedEngine(step_s=STEP_S, context_length=500_000), drain_wait_s=0, drain_grace_s=60
        )
        for _ in range(2)
    ]
    async with tcp_proxy(old.target) as name:
        yield Rollout(old, new, name)


@pytest.fixture(params=[True, False], ids=["session", "calls"])
async def client(rollout: Rollout, request: pytest.FixtureRequest) -> AsyncIterator[AsyncClient]:
    """Without a second attempt, as the bridge has it."""
    options = ClientOptions(use_sessions=request.param, max_attempts=1)
    async with AsyncClient(rollout.name.target, options=options) as client:
        yield client


def long(client: AsyncClient) -> AsyncStream:
    return client.generate("ab", max_tokens=TOKENS, ignore_eos=True)


async def running_on_the_old(rollout: Rollout, client: AsyncClient) -> "asyncio.Task[bool]":
    """An answer that the old replica has, and whether it came whole."""
    task = asyncio.create_task(whole(long(client)))
    await eventually(lambda: rollout.old.service.gate.held == 1)
    return task


async def whole(stream: AsyncStream) -> bool:
    events = [event async for event in stream]
    return stream.next_token_index == TOKENS and isinstance(events[-1], Finished)


async def test_new_requests_go_to_the_ready_replica_while_old_answers_run_out_on_the_other(
    rollout: Rollout, client: AsyncClient
) -> None:
    olds = [asyncio.create_task(whole(long(client))) for _ in range(5)]
    await eventually(lambda: rollout.old.service.gate.held == 5)
    await rollout.stop()

    news = [asyncio.create_task(whole(long(client))) for _ in range(5)]
    await eventually(lambda: rollout.new.service.gate.held == 5)
    assert rollout.old.service.gate.held == 5
    assert all(await asyncio.gather(*olds, *news))
    assert rollout.name.connections == 2


async def test_an_answer_that_moved_is_stopped_and_left_where_it_is(
    rollout: Rollout, client: AsyncClient
) -> None:
    kept = await running_on_the_old(rollout, client)
    await rollout.stop()
    stopped, left = [client.generate("ab", max_tokens=10**5, ignore_eos=True) for _ in range(2)]
    reading = [asyncio.create_task(anext(aiter(stream))) for stream in (stopped, left)]
    await asyncio.gather(*reading)
    await stopped.stop()
    left.cancel()
    await eventually(lambda: rollout.new.nothing_runs)
    assert await kept


async def test_a_stream_of_the_replica_that_stops_is_read_on_and_ended_by_its_id(
    rollout: Rollout, client: AsyncClient
) -> None:
    read, ended = [
        client.generate("ab", max_tokens=10**4, ignore_eos=True, on_disconnect="detach")
        for _ in range(2)
    ]
    ids = [(await anext(aiter(stream))).stream_id for stream in (read, ended)]  # type: ignore[union-attr]
    other = asyncio.create_task(whole(long(client)))
    await eventually(lambda: rollout.old.service.gate.held == 3)
    read.cancel()
    await rollout.stop()
    assert await whole(long(client))  # on the new one, which does not know those streams

    again = client.resume(ids[0])
    assert (await anext(aiter(again))).stream_id == ids[0]  # type: ignore[union-attr]
    await client.cancel(ids[1])
    await client.cancel(ids[0])
    await eventually(lambda: rollout.old.nothing_runs)
    assert await other


async def test_a_stream_of_the_new_replica_is_found_by_its_id_while_the_old_one_stops(
    rollout: Rollout, client: AsyncClient
) -> None:
    other = await running_on_the_old(rollout, client)
    await rollout.stop()
    stream = client.generate("ab", max_tokens=10**4, ignore_eos=True, on_disconnect="detach")
    start = await anext(aiter(stream))
    again = client.resume(start.stream_id)  # type: ignore[union-attr]
    assert (await anext(aiter(again))).stream_id == start.stream_id  # type: ignore[union-attr]
    await client.cancel(start.stream_id)  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        await anext(aiter(client.resume("no-such-stream")))
    with pytest.raises(NotFound):
        await client.cancel("no-such-stream")
    assert await other


async def test_models_are_asked_for_at_the_ready_replica(
    rollout: Rollout, client: AsyncClient
) -> None:
    other = await running_on_the_old(rollout, client)
    await rollout.stop()
    assert await client.list_models()
    ids = await client.tokenize("ab")
    assert await client.detokenize(ids) == "ab"
    assert rollout.name.connections == 2
    assert await other


async def test_a_replica_that_has_just_ended_is_not_asked_for_streams(
    rollout: Rollout, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstream_client.connections._LOOK_EVERY_S", 1000.0)
    old = await running_on_the_old(rollout, client)
    await rollout.stop()
    stream = client.generate("ab", max_tokens=10**4, ignore_eos=True, on_disconnect="detach")
    start = await anext(aiter(stream))
    assert await old
    await rollout.old_has_ended()
    assert len(tuple(client._connections)) == 2
    again = client.resume(start.stream_id)  # type: ignore[union-attr]
    assert (await anext(aiter(again))).stream_id == start.stream_id  # type: ignore[union-attr]
    await client.cancel(start.stream_id)  # type: ignore[union-attr]


async def test_nothing_is_left_of_the_old_connection_once_its_replica_has_ended(
    rollout: Rollout, client: AsyncClient
) -> None:
    connection = weakref.ref(client._connections.current)
    old = await running_on_the_old(rollout, client)
    await rollout.stop()
    assert await whole(long(client))
    assert await old
    await rollout.old_has_ended()
    await eventually(lambda: len(tuple(client._connections)) == 1)
    await eventually(lambda: not client._connections._closings)
    gc.collect()
    assert connection() is None
    assert await whole(long(client))


async def test_with_one_replica_alone_the_refusal_is_told_and_connections_are_few(
    serve: Serve, client: AsyncClient, rollout: Rollout
) -> None:
    old = await running_on_the_old(rollout, client)
    await stopping(rollout.old)
    for number in range(20):
        with pytest.raises(Unavailable) as refused:
            await (client.list_models() if number % 2 else anext(aiter(long(client))))
        assert refused.value.reason == "SERVICE_STOPPING"
        assert refused.value.retry_after is not None
    assert rollout.name.connections == 2
    assert await old


async def test_replicas_that_stop_one_after_another_are_never_more_than_the_bound(
    rollout: Rollout, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenstream_client.connections.MOVE_EVERY_S", 0.05)
    old = await running_on_the_old(rollout, client)
    await stopping(rollout.old)
    while rollout.name.connections < MOST_STOPPING + 3:
        with pytest.raises(Unavailable):
            await anext(aiter(long(client)))
        assert len(tuple(client._connections)) <= MOST_STOPPING + 1
    assert not old.done()
    assert await old
