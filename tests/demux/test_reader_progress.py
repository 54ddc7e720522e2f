import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from service.demux import reader_progress
from service.demux.reader_progress import ReaderProgress
from service.domain import SchedulerReport
from service.errors import EngineDead


class Ears:
    """What the engine heard; it answers when it is let."""

    def __init__(self) -> None:
        self.heard: list[dict[str, int]] = []
        self.came = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.answers: list[SchedulerReport | Exception] = []

    async def readers_moved(
        self, engine_ids: Sequence[str], positions: Sequence[int]
    ) -> SchedulerReport:
        self.heard.append(dict(zip(engine_ids, positions, strict=True)))
        self.came.set()
        await self.may_answer.wait()
        answer = self.answers.pop(0) if self.answers else SchedulerReport()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def next(self) -> dict[str, int]:
        """Wait for one message more."""
        async with asyncio.timeout(5):
            await self.came.wait()
        self.came.clear()
        return self.heard[-1]


@pytest.fixture
def ears() -> Ears:
    return Ears()


@pytest.fixture
async def progress(ears: Ears) -> AsyncIterator[ReaderProgress]:
    progress = ReaderProgress(ears)
    running = asyncio.create_task(progress.run())
    yield progress
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_moves_together_is_told_together_and_the_newest_counts(
    ears: Ears, progress: ReaderProgress
) -> None:
    progress.moved("a", 1)
    progress.moved("b", 2)
    progress.moved("a", 3)
    assert await ears.next() == {"a": 3, "b": 2}


async def test_while_a_message_is_on_its_way_there_is_no_second_and_nothing_is_lost(
    ears: Ears, progress: ReaderProgress
) -> None:
    ears.may_answer.clear()
    progress.moved("a", 1)
    await ears.next()
    for position in range(2, 50):
        progress.moved("a", position)
        progress.moved(f"s{position}", position)
        await asyncio.sleep(0)
    assert len(ears.heard) == 1
    ears.may_answer.set()
    assert await ears.next() == {"a": 49} | {f"s{p}": p for p in range(2, 50)}


async def test_with_nothing_to_tell_it_says_that_it_is_there_and_keeps_the_report(
    ears: Ears, progress: ReaderProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_progress, "HEARTBEAT_S", 0.01)
    ears.answers = [SchedulerReport(parked=2) for _ in range(1000)]
    assert await ears.next() == {}
    assert await ears.next() == {}  # the answer before it was taken
    assert progress.report == SchedulerReport(parked=2)


async def test_what_could_not_be_told_is_told_again_unless_there_is_newer(
    ears: Ears, progress: ReaderProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader_progress, "HEARTBEAT_S", 0.05)
    ears.answers = [RuntimeError("lost")]
    ears.may_answer.clear()
    progress.moved("a", 1)
    progress.moved("b", 1)
    assert await ears.next() == {"a": 1, "b": 1}
    progress.moved("b", 2)
    ears.may_answer.set()
    assert await ears.next() == {"a": 1, "b": 2}


async def test_once_the_engine_is_gone_it_ends(ears: Ears) -> None:
    ears.answers = [EngineDead()]
    progress = ReaderProgress(ears)
    progress.moved("a", 1)
    async with asyncio.timeout(5):
        await progress.run()
