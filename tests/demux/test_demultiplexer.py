import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import structlog

from service.demux.demultiplexer import Demultiplexer
from service.domain import FinishReason
from service.engine.scripted import ScriptedOutput
from service.errors import EngineDead, RequestFailed, ServiceStopping
from tests.demux.scripted_source import (
    BrokenDecoder,
    ScriptedSource,
    new_stream,
    text_of,
    tokens,
)


@pytest.fixture
def source() -> ScriptedSource:
    return ScriptedSource()


@pytest.fixture
async def demultiplexer(source: ScriptedSource) -> AsyncIterator[Demultiplexer]:
    demultiplexer = Demultiplexer(source)
    task = asyncio.create_task(demultiplexer.run())
    yield demultiplexer
    task.cancel()
    with suppress(asyncio.CancelledError, ExceptionGroup):
        await task


async def test_streams_get_their_tokens_until_the_end(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    stream = new_stream()
    with demultiplexer.attached("a", stream):
        source.put(tokens("a", "x"))
        source.put(ScriptedOutput("a", (ord("y"),), FinishReason.LENGTH))
        assert await text_of(stream) == "xy"
    assert len(demultiplexer.router) == 0
    await asyncio.sleep(0)
    assert source.aborts == []


async def test_leaving_the_block_before_the_end_stops_the_engine(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    with suppress(RuntimeError), demultiplexer.attached("a", new_stream()):
        raise RuntimeError("whatever ends it")
    await source.aborted.wait()
    assert source.aborts == [["a"]]
    assert len(demultiplexer.router) == 0


async def test_many_that_leave_at_once_are_stopped_in_one_message(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    ids = [str(number) for number in range(100)]
    for engine_id in ids:
        with demultiplexer.attached(engine_id, new_stream()):
            pass
    await source.aborted.wait()
    assert source.aborts == [ids]


async def test_a_stop_string_stops_the_engine_while_the_reader_is_away(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    with demultiplexer.attached("a", new_stream("END")):
        source.put(tokens("a", "x END"))
        await source.aborted.wait()
        assert source.aborts == [["a"]]


async def test_a_cancel_ends_a_running_stream_once(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    stream = new_stream()
    with demultiplexer.attached("a", stream):
        assert demultiplexer.cancel("a") is True
        assert demultiplexer.cancel("a") is False
        assert await text_of(stream) == ""
    assert demultiplexer.cancel("a") is False
    assert demultiplexer.cancel("never was") is False


async def test_a_cancel_stops_the_engine_while_the_reader_is_away(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    with demultiplexer.attached("a", new_stream()):
        demultiplexer.cancel("a")
        async with asyncio.timeout(1):
            await source.aborted.wait()
        assert source.aborts == [["a"]]


async def test_the_engines_death_fails_all_streams_and_refuses_new_ones(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    first, second = new_stream(), new_stream()
    with demultiplexer.attached("a", first), demultiplexer.attached("b", second):
        source.die()
        await demultiplexer.died.wait()
        for stream in first, second:
            with pytest.raises(EngineDead):
                await text_of(stream)
    with pytest.raises(EngineDead), demultiplexer.attached("c", new_stream()):
        pass
    assert len(demultiplexer.router) == 0


async def test_work_ends_when_the_engine_is_dead(source: ScriptedSource) -> None:
    source.die()
    async with asyncio.timeout(1):
        await Demultiplexer(source).run()


async def test_a_stop_that_the_dead_engine_cannot_take_is_let_go(
    source: ScriptedSource,
) -> None:
    demultiplexer = Demultiplexer(source)
    source.abort_fails_with = EngineDead()
    running = asyncio.create_task(demultiplexer.run())
    with demultiplexer.attached("a", new_stream()):
        pass
    await asyncio.sleep(0)
    source.die()
    await running


@pytest.mark.parametrize("where", ["deliver", "abort"])
async def test_whatever_breaks_the_loop_no_stream_waits_for_ever(
    source: ScriptedSource, demultiplexer: Demultiplexer, where: str
) -> None:
    stream = new_stream()
    with demultiplexer.attached("a", stream):
        if where == "deliver":
            source.batches.put_nowait(OSError("not a way in which an engine dies"))
        else:
            source.abort_fails_with = OSError("the socket is closed")
            with demultiplexer.attached("b", new_stream()):
                pass
        async with asyncio.timeout(1):
            await demultiplexer.died.wait()
        with pytest.raises(EngineDead):
            await text_of(stream)


async def test_closed_it_fails_all_and_whoever_comes_later(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    stream = new_stream()
    with demultiplexer.attached("a", stream):
        demultiplexer.close(ServiceStopping)
        with pytest.raises(ServiceStopping):
            await text_of(stream)
    with pytest.raises(ServiceStopping), demultiplexer.attached("late", new_stream()):
        pass
    assert not demultiplexer.died.is_set()


async def test_a_stream_that_failed_is_logged_with_its_cause_and_the_others_go_on(
    source: ScriptedSource, demultiplexer: Demultiplexer
) -> None:
    broken, whole = new_stream("stop", decoder=BrokenDecoder()), new_stream()
    with (
        structlog.testing.capture_logs() as log,
        demultiplexer.attached("broken", broken),
        demultiplexer.attached("whole", whole),
    ):
        source.put(tokens("broken", "x"), tokens("whole", "y"))
        source.put(ScriptedOutput("whole", (ord("z"),), FinishReason.LENGTH))
        assert await text_of(whole) == "yz"
        with pytest.raises(RequestFailed):
            await text_of(broken)
    assert [entry["event"] for entry in log] == ["stream_failed"]
    assert isinstance(log[0]["exc_info"], RuntimeError)
