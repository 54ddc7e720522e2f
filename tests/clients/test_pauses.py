"""The service is down, a stream waits to be read on, and new requests come."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.clients.script import deltas, finished, started
from tests.clients.scripted import ScriptedService
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.service.running import eventually
from tokenstream_client import AsyncClient, AsyncStream, ClientOptions, Delta, Event, Unavailable
from tokenstream_client.session import Session

FOR_EVER_S = 10_000.0


class Calls:
    """How often a session was opened, and whether it pauses before it is again."""

    def __init__(self, client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.pausing = 0, False
        session = client._connections.current.session
        assert session is not None
        open_call, pause = session._open_call, Session._pause

        def opening(*args: Any, **kwargs: Any) -> Any:
            self.opened += 1
            return open_call(*args, **kwargs)

        async def paused(session: Session, seconds: float) -> None:
            self.pausing = True
            await pause(session, seconds)
            self.pausing = False

        monkeypatch.setattr(session, "_open_call", opening)
        monkeypatch.setattr(Session, "_pause", paused)


@pytest.fixture
async def proxy(service: ScriptedService) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(service.target) as proxy:
        yield proxy


@pytest.fixture
async def client(proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """Once it has lost a connection it would not try another by itself."""
    monkeypatch.setattr("tokenstream_client.answer.backoff", lambda *_: FOR_EVER_S / 2)
    options = ClientOptions(max_attempts=1, time_to_live=FOR_EVER_S)
    async with AsyncClient(proxy.target, options=options) as client:
        yield client


async def begun(service: ScriptedService, client: AsyncClient) -> AsyncStream:
    """A stream that has a connection, and its first token."""
    service.script = [started(), *deltas("a"), asyncio.Event(), finished(1)]
    stream = client.generate("Hi")
    events = list[Event]()
    while not any(isinstance(event, Delta) for event in events):
        events = await asyncio.wait_for(stream.take_batch(), 10)
    return stream


async def test_a_new_request_is_tried_at_once_and_refused_while_an_old_one_waits_on(
    service: ScriptedService,
    proxy: TcpProxy,
    client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Calls(client, monkeypatch)
    waiting = await begun(service, client)
    proxy.refusing = True
    proxy.cut()
    await eventually(lambda: calls.pausing)
    for already in range(1, 4):
        assert calls.opened == already
        with pytest.raises(Unavailable):
            await asyncio.wait_for(anext(aiter(client.generate("new"))), 10)
        await eventually(lambda: calls.pausing)
    assert not waiting.ended


async def test_what_was_begun_before_a_loss_does_not_cut_the_pause_behind_it_short(
    service: ScriptedService,
    proxy: TcpProxy,
    client: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Calls(client, monkeypatch)
    waiting = [await begun(service, client) for _ in range(2)]
    proxy.refusing = True
    proxy.cut()
    await eventually(lambda: calls.pausing)
    assert calls.opened == 1
    assert not any(stream.ended for stream in waiting)
