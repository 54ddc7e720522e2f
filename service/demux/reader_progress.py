"""Tells the engine how far its readers have come, so that it need not decode ahead of them.

Positions are absolute and only the newest counts: what is lost or said twice does no harm. Rules:

1. At most one message is on its way; what comes meanwhile goes with the next.
2. A message waits `WINDOW_S` for company.
3. At least every `HEARTBEAT_S` there is one, if only an empty one: an engine that hears nothing for
   long lets everybody run, and its answer is its scheduler's report.

Bound: one position for each running stream.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from service.domain import SchedulerReport
from service.errors import EngineDead

_log = structlog.get_logger(__name__)

WINDOW_S = 0.005
HEARTBEAT_S = 1.0


class ProgressSink(Protocol):
    """The part of an engine that wants to know."""

    async def readers_moved(
        self, engine_ids: Sequence[str], positions: Sequence[int]
    ) -> SchedulerReport:
        """Take how many tokens have been read of these; unknown ids are ignored."""


class ReaderProgress:
    """See the rules above. `report`: the newest."""

    def __init__(self, sink: ProgressSink) -> None:
        self._sink = sink
        self._moved: dict[str, int] = {}
        self._wanted = asyncio.Event()
        self._failing = False
        self.report = SchedulerReport()

    def moved(self, engine_id: str, position: int) -> None:
        """Take a stream's new position."""
        self._moved[engine_id] = position
        self._wanted.set()

    async def run(self) -> None:
        """Tell until cancelled, or until the engine is gone."""
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._wanted.wait()
                await asyncio.sleep(WINDOW_S)
            except TimeoutError:
                pass
            self._wanted.clear()
            moved, self._moved = self._moved, {}
            try:
                self.report = await self._sink.readers_moved(list(moved), list(moved.values()))
                self._failing = False
            except EngineDead:
                return
            except Exception:
                # Said again with the next heartbeat, unless there is something newer.
                self._moved = moved | self._moved
                if not self._failing:
                    _log.exception("readers_progress_failed")
                self._failing = True
