"""A pipeline with a scripted engine, without a wire, and readers of it."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

from service.admission.gate import Gate
from service.demux.demultiplexer import Demultiplexer
from service.demux.flush_timer import FlushTimer
from service.demux.reader_progress import ReaderProgress
from service.directory import Directory
from service.domain import (
    DeliveryOptions,
    GenerationRequest,
    OnDisconnect,
    SamplingOptions,
    TextPrompt,
)
from service.engine.scripted import ScriptedEngine
from service.generation import Generation
from service.pipeline import Limits, Pipeline
from service.stream.pacing import DelayGrid
from service.stream.reader import StreamReader
from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome
from service.transport.wakeup import Wakeup
from tests.stream.taken import taken

TENANT = "t"


now = time.monotonic


class Parts:
    """A pipeline with a scripted engine, without a wire."""

    def __init__(self, engine: ScriptedEngine, limit: int = 10) -> None:
        self.engine = engine
        self.gate = Gate(limit, now)
        self.demultiplexer = Demultiplexer(engine)
        self.directory = Directory(30.0, 100)
        self.metrics = StreamMetrics()
        self.grid = DelayGrid(now)
        self.timer = FlushTimer(self.grid, now)
        self.pipeline = Pipeline(
            engine,
            self.gate,
            self.demultiplexer,
            self.directory,
            self.grid,
            self.metrics,
            Limits(max_request_bytes=1000, detached_ttl_s=5.0, max_detached_ttl_s=20.0),
            ReaderProgress(engine),
            now,
        )
        self.gate.open()
        self.running = asyncio.create_task(self.demultiplexer.run())

    async def open(self, request: GenerationRequest, remaining_s: float | None = None) -> "Reading":
        """Open a stream and begin to read it."""
        generation = await self.pipeline.open(request, TENANT, remaining_s)
        reading = Reading(generation)
        generation.known = True
        reading.reader = self.pipeline.read(generation, reading)
        return reading

    def resume(
        self, stream_id: str, position: int, tenant: str = TENANT, max_delay_s: float | None = None
    ) -> "Reading":
        """Read a stream on."""
        reading = Reading(None)
        reading.generation, reading.reader = self.pipeline.resume(
            stream_id, tenant, position, DeliveryOptions(max_delay_s), reading
        )
        return reading

    async def close(self) -> None:
        self.timer.close()
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    @property
    def left(self) -> tuple[int, int, list[str]]:
        return self.gate.held, len(self.demultiplexer.router), self.engine.running_ids

    def counted(self) -> dict[Outcome, int]:
        return {o: n for o in Outcome if (n := self.metrics.count(o))}


class Reading:
    """A reader and its sink; takes one message after the other."""

    generation: Generation
    reader: StreamReader

    def __init__(self, generation: Generation | None) -> None:
        if generation is not None:
            self.generation = generation
        self._wakeup = Wakeup()

    def ready(self, reader: StreamReader) -> None:
        self._wakeup.set()

    def broken_off(self, reader: StreamReader) -> None:
        self._wakeup.set()

    async def next_text(self) -> str:
        """Wait for what is due next."""
        async with asyncio.timeout(5):
            await self._wakeup.wait()
        delta = taken(self.reader)
        return "" if delta is None else delta.text

    async def rest(self, parts: Parts | None = None) -> str:
        """Read to the end, with a step of the engine for each message; raises its failure."""
        text = ""
        try:
            while not self.reader.exhausted:
                if parts is not None:
                    parts.engine.step()
                text += await self.next_text()
            self.generation.complete()
            stream = self.generation.stream
            assert stream is not None
            if stream.failure is not None:
                raise stream.failure
            return text
        finally:
            self.leave()

    def leave(self) -> None:
        self.generation.leave(self.reader)


NOTHING: tuple[int, int, list[str]] = (0, 0, [])


def request(text: str = "ab", **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        TextPrompt(text),
        sampling=SamplingOptions(**sampling),  # type: ignore[arg-type]
    )


def detached(time_to_live_s: float | None = None) -> GenerationRequest:
    delivery = DeliveryOptions(on_disconnect=OnDisconnect.DETACH, time_to_live_s=time_to_live_s)
    return replace(request(), delivery=delivery)
