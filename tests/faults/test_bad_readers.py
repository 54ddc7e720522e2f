"""Readers on another machine that hardly read, and that end their connection by a reset."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.telemetry.outcomes import Outcome
from tests.contract.raw_caller import GENERATE, SESSION, RawCaller
from tests.faults.conftest import KEEPALIVE_S
from tests.faults.network import Elsewhere
from tests.faults.test_half_open import HEALTHY, MARGIN_S, healthy, long_request, port_of, right
from tests.service.running import Answer, RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]

WIDE = 2**31 - 1
STREAMS = 6  # each second one detaches
DETACHED = STREAMS // 2
PATHS = [pytest.param(GENERATE, id="Generate"), pytest.param(SESSION, id="Session")]


@asynccontextmanager
async def raw(
    there: Elsewhere, running: RunningService, *, reads: bool
) -> AsyncIterator[RawCaller]:
    """A caller from there whose windows are no limit, only its reading is."""
    connection = there.connect(port_of(running), receive_buffer=4096)
    caller = await RawCaller.over(connection, window=WIDE, reads=reads)
    caller.grant(0, 2**30)
    yield caller
    await caller.close()


def open_all(caller: RawCaller, path: str) -> None:
    """Begin the streams, each by a call or all in one session."""
    requests = [long_request(detach=number % 2 == 1) for number in range(STREAMS)]
    if path == GENERATE:
        for request in requests:
            caller.open(path, request.SerializeToString())
        return
    starts = [pb.SessionStart(id=n, request=r) for n, r in enumerate(requests, start=1)]
    messages = [pb.SessionRequest(start=start).SerializeToString() for start in starts]
    caller.open(path, *messages, last=False)


async def read_on_from_the_start(running: RunningService) -> None:
    """What has detached is there from its first token on, for whoever comes."""
    ids = [g.stream_id for g in running.service.directory._running.values() if g.resumable]
    assert len(ids) == DETACHED
    for stream_id in ids:
        call = running.resume(stream_id)
        got = await Answer().read_tokens(call, 200)
        await running.cancel(stream_id)
        await got.read(call)
        assert got.token_ids == right(0, got.count)
        assert got.end.reason == pb.FINISH_REASON_CANCELLED


@pytest.mark.parametrize("path", PATHS)
async def test_a_reader_that_takes_a_byte_a_second_is_ended_and_nobody_else_notices(
    running: RunningService, there: Elsewhere, path: str
) -> None:
    async def take_a_byte_a_second(caller: RawCaller) -> None:
        while True:
            await caller.take_a_byte()
            await asyncio.sleep(1)

    gate = running.service.gate
    async with healthy(running), raw(there, running, reads=False) as caller:
        await eventually(lambda: gate.held == HEALTHY)
        taking = asyncio.create_task(take_a_byte_a_second(caller))
        open_all(caller, path)
        await eventually(lambda: gate.held == HEALTHY + STREAMS)
        await eventually(
            lambda: gate.held == HEALTHY + DETACHED, within_s=2 * KEEPALIVE_S + MARGIN_S
        )
        ended = running.count(Outcome.STALLED) + running.count(Outcome.DISCONNECTED)
        assert ended == running.counted == STREAMS - DETACHED
        await read_on_from_the_start(running)
        taking.cancel()
        await asyncio.wait([taking])
    await eventually(lambda: running.nothing_runs)


@pytest.mark.parametrize("path", PATHS)
async def test_a_reader_that_resets_its_connection_is_gone_at_once_and_its_streams_are_read_on(
    running: RunningService, there: Elsewhere, path: str
) -> None:
    gate = running.service.gate
    async with healthy(running), raw(there, running, reads=True) as caller:
        await eventually(lambda: gate.held == HEALTHY)
        open_all(caller, path)
        await eventually(lambda: caller.received.total() > 10_000)
        assert gate.held == HEALTHY + STREAMS
        await caller.reset_connection()
        await eventually(lambda: gate.held == HEALTHY + DETACHED, within_s=1)
        assert running.count(Outcome.DISCONNECTED) == running.counted == STREAMS - DETACHED
        await read_on_from_the_start(running)
    await eventually(lambda: running.nothing_runs)
