"""What lies round the routing table: takes the engine's batches, sends it the ids to stop.

Batches are taken for as long as the engine lives. Stops are collected and sent by a second
task, so that a handler that is being cancelled only leaves a note and never waits, and a thousand
cancels become a few messages.

Bound of the collected stops: one id for each admitted request.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog

from service.demux.router import Route, Router
from service.domain import EngineBatch
from service.errors import EngineDead, ServiceError
from service.stream.token_stream import TokenStream

_log = structlog.get_logger(__name__)


class BatchSource(Protocol):
    """The part of an engine that the demultiplexer needs."""

    async def deliver(self, take: Callable[[EngineBatch], None]) -> None:
        """Call `take` with each step's outputs; raises `EngineDead` when there will be none."""

    async def abort(self, engine_ids: Sequence[str]) -> None:
        """Stop these requests; unknown ids are ignored."""


class Demultiplexer:
    """Owns the routing table. `died` is set once the engine is gone."""

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._router = Router()
        self._stops: list[str] = []
        self._stops_wanted = asyncio.Event()
        self._closed_because: Callable[[], ServiceError] | None = None
        self.died = asyncio.Event()

    @property
    def router(self) -> Router:
        """The table, for looking at."""
        return self._router

    async def run(self) -> None:
        """Work until cancelled or until the engine is gone; then no stream is left waiting.

        Whatever breaks the work, a bug included, counts as the engine's death: without this loop
        it is as good as dead to everybody.
        """
        taking = asyncio.create_task(self._source.deliver(self._take))
        sending = asyncio.create_task(self._send_stops())
        try:
            await asyncio.wait((taking, sending), return_when=asyncio.FIRST_COMPLETED)
            for task in (taking, sending):
                if task.done() and (error := task.exception()) is not None:
                    died = isinstance(error, EngineDead)
                    cause = error.__cause__ if died else error
                    _log.error("engine_lost" if died else "demultiplexer_failed", exc_info=cause)
        finally:
            for task in (taking, sending):
                task.cancel()
            await asyncio.gather(taking, sending, return_exceptions=True)
            self.died.set()
            self.close(EngineDead)

    @contextmanager
    def attached(self, engine_id: str, stream: TokenStream) -> Iterator[Route]:
        """Route an id's outputs to a stream inside the block; behind it the engine is told to stop.

        Raises what `close` was given, once it was called.
        """
        if self._closed_because is not None:
            raise self._closed_because()
        route = self._router.add(engine_id, stream)
        try:
            yield route
        finally:
            self._stop_soon(self._router.release(engine_id))

    def cancel(self, engine_id: str) -> bool:
        """End a stream on purpose, and its decoding. False if none of that id is running."""
        stop = self._router.cancel(engine_id)
        self._stop_soon(stop or ())
        return stop is not None

    def fail(self, engine_id: str, failure: ServiceError) -> None:
        """End a stream with an error, and its decoding, unless it has ended."""
        self._stop_soon(self._router.fail(engine_id, failure))

    def close(self, make_failure: Callable[[], ServiceError]) -> None:
        """End every stream with an error of its own, those that come later too; for good."""
        self._closed_because = self._closed_because or make_failure
        self._stop_soon(self._router.fail_all(make_failure))

    def _take(self, batch: EngineBatch) -> None:
        routed = self._router.route(batch)
        self._stop_soon(routed.stop)
        for engine_id, cause in routed.failures:
            _log.error(
                "stream_failed", stream_id=engine_id, exc_info=cause, by_engine=cause is None
            )

    def _stop_soon(self, engine_ids: Sequence[str]) -> None:
        if engine_ids:
            self._stops.extend(engine_ids)
            self._stops_wanted.set()

    async def _send_stops(self) -> None:
        while True:
            await self._stops_wanted.wait()
            self._stops_wanted.clear()
            stops, self._stops = self._stops, []
            await self._source.abort(stops)
