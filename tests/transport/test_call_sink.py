import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import pytest

from service.errors import EngineDead, StreamStalled, StreamTakenOver
from service.generation import Generation
from service.telemetry.outcomes import Outcome
from service.transport import call_sink
from service.transport.call_messages import CallMessages
from service.transport.call_sink import CallSink
from tests.conftest import FakeClock
from tests.service.generations import Generations, push, stream_of
from tests.stream.by_hand import STOP
from tests.transport.scripted_call import ScriptedCall
from tokenstream.v1 import generation_pb2 as pb


def events_of(call: ScriptedCall) -> list[str | None]:
    """Which event each message that was written holds."""
    return [message.WhichOneof("event") for message in call.written]


class Written:
    """A stream that is written to a call by a task of its own."""

    def __init__(self, clock: FakeClock) -> None:
        self.generations = Generations(clock)
        self.call = ScriptedCall()
        self.generation: Generation = self.generations.begin(detach=False)
        self.begun = asyncio.Event()
        self.task = asyncio.create_task(self._handle())

    async def _handle(self) -> None:
        sink = CallSink()
        self.reader = self.generations.read(self.generation, sink)
        self.begun.set()
        messages = CallMessages(pb.GenerateResponse)
        await sink.write_out(self.generation, self.reader, cast("Any", self.call), messages)

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self.task


@pytest.fixture
async def written(clock: FakeClock) -> AsyncIterator[Written]:
    written = Written(clock)
    await written.begun.wait()
    yield written
    written.task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await written.task


async def test_a_stream_is_written_from_its_start_to_its_end(written: Written) -> None:
    await written.call.until_written(1)
    push(written.generation, "ab")
    await written.call.until_written(2)
    stream_of(written.generation).push([99], STOP)
    await written.end()
    assert events_of(written.call) == ["started", "delta", "delta", "finished"]
    first, second = (message.delta for message in written.call.written[1:3])
    assert (first.text, list(second.token_ids)) == ("ab", [99])
    assert written.generations.settled == [("s", Outcome.STOP)]
    assert written.generation.reader is None


async def test_what_comes_while_a_message_is_on_its_way_is_merged_into_the_next(
    written: Written,
) -> None:
    await written.call.until_written(1)
    written.call.can_write.clear()
    push(written.generation, "a")
    await written.call.in_write.wait()
    for letter in "bcd":
        push(written.generation, letter)
    written.call.can_write.set()
    await written.call.until_written(3)
    assert [message.delta.text for message in written.call.written[1:]] == ["a", "bcd"]


async def test_a_failure_is_raised_behind_what_was_decoded(written: Written) -> None:
    push(written.generation, "ab")
    stream_of(written.generation).fail(EngineDead())
    with pytest.raises(EngineDead):
        await written.end()
    assert events_of(written.call) == ["started", "delta"]
    assert written.generations.settled == [("s", Outcome.UNAVAILABLE)]


async def test_a_reader_that_is_stuck_in_a_write_is_broken_off_with_its_reason(
    written: Written,
) -> None:
    await written.call.until_written(1)
    written.call.can_write.clear()
    push(written.generation, "a")
    await written.call.in_write.wait()
    written.reader.break_off(StreamStalled(30))
    with pytest.raises(StreamStalled):
        await written.end()
    assert written.task.cancelling() == 0
    assert written.generations.settled == [("s", Outcome.STALLED)]


async def test_a_reader_that_waits_is_broken_off_with_its_reason(written: Written) -> None:
    await written.call.until_written(1)
    written.reader.break_off(StreamTakenOver())
    with pytest.raises(StreamTakenOver):
        await written.end()


@pytest.mark.parametrize("stuck", [False, True])
async def test_a_caller_that_has_gone_ends_the_task_as_cancelled_and_leaves_the_stream(
    written: Written, stuck: bool
) -> None:
    await written.call.until_written(1)
    if stuck:
        written.call.can_write.clear()
        push(written.generation, "a")
        await written.call.in_write.wait()
    written.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await written.end()
    assert written.generations.settled == [("s", Outcome.DISCONNECTED)]
    assert written.reader.closed


async def test_a_caller_that_goes_while_its_reader_is_broken_off_has_gone(
    written: Written,
) -> None:
    await written.call.until_written(1)
    written.call.can_write.clear()
    push(written.generation, "a")
    await written.call.in_write.wait()
    written.reader.break_off(StreamStalled(30))
    written.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await written.end()


async def test_a_write_that_fails_leaves_the_stream(written: Written) -> None:
    await written.call.until_written(1)
    written.call.write_fails_with = OSError("the socket is gone")
    push(written.generation, "a")
    with pytest.raises(OSError, match="gone"):
        await written.end()
    assert written.reader.closed
    assert written.generations.settled == [("s", Outcome.DISCONNECTED)]


async def test_a_caller_that_does_not_take_the_very_end_is_given_up(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_sink, "LAST_WRITE_S", 0.05)
    written.call.never_takes = "finished"
    stream_of(written.generation).push([97], STOP)
    with pytest.raises(StreamStalled):
        await written.end()
    assert written.generation.outcome is Outcome.STOP, "all of it was decoded and taken"
