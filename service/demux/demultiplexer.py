"""The loop round the routing table: pulls the engine's batches, sends it the ids to stop.

One task reads batches for as long as the engine lives. Stops are collected and sent by a second
task, so that a handler that is being cancelled only leaves a note and never waits, and a thousand
cancels become a few messages.

Bound of the collected stops: one id for each admitted request.
"""

import asyncio
from collections.abc import Iterator, Sequence
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

    async def next_batch(self) -> EngineBatch:
        """Wait for the next step's outputs; raises `EngineDead` when there will be none."""

    async def abort(self, engine_ids: Sequence[str]) -> None:
        """Stop these requests; unknown ids are ignored."""


class Demultiplexer:
    """Owns the routing table. `died` is set once the engine is gone."""

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._router = Router()
        self._stops: list[str] = []
        self._stops_wanted = asyncio.Event()
        self.died = asyncio.Event()

    @property
    def router(self) -> Router:
        """The table, for looking at."""
        return self._router

    async def run(self) -> None:
        """Work until cancelled, or until the engine is dead; then every stream has failed."""
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(self._send_stops())
            try:
                await self._pull()
            finally:
                sender.cancel()

    @contextmanager
    def attached(self, engine_id: str, stream: TokenStream) -> Iterator[Route]:
        """Route an id's outputs to a stream inside the block; behind it the engine is told to stop.

        Raises `EngineDead` if there is no engine any more.
        """
        if self.died.is_set():
            raise EngineDead
        route = self._router.add(engine_id, stream)
        try:
            yield route
        finally:
            if self._router.release(engine_id):
                self._stop_soon([engine_id])

    def cancel(self, engine_id: str) -> bool:
        """End a stream on purpose. False if none of that id is running."""
        stream = self._router.stream(engine_id)
        return stream is not None and stream.cancel()

    def fail_all(self, failure: ServiceError) -> None:
        """End every running stream with this failure."""
        self._router.fail_all(failure)

    async def _pull(self) -> None:
        try:
            while True:
                batch = await self._source.next_batch()
                failed_before = self._router.counts.streams_failed
                stop = self._router.route(batch)
                if stop:
                    self._stop_soon(stop)
                if self._router.counts.streams_failed != failed_before:
                    _log.error("stream_failed", exc_info=self._router.last_failure)
        except EngineDead as dead:
            self.died.set()
            self._router.fail_all(dead)

    def _stop_soon(self, engine_ids: Sequence[str]) -> None:
        self._stops.extend(engine_ids)
        self._stops_wanted.set()

    async def _send_stops(self) -> None:
        while True:
            await self._stops_wanted.wait()
            self._stops_wanted.clear()
            stops, self._stops = self._stops, []
            try:
                await self._source.abort(stops)
            except EngineDead:
                return
