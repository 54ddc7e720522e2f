"""The composition root: makes the parts, starts them in order, stops them in the reverse order.

Start: listen (health says NOT_SERVING) → engine → demultiplexer → gate open, SERVING.
Stop (SIGTERM, SIGINT): NOT_SERVING → a wait, in which new streams are still taken from those who
have not noticed → gate shut → running streams finish, within the grace → the rest get UNAVAILABLE →
server → engine. A second signal ends wait and grace. The engine's death: the same without the wait.
"""

import asyncio
import gc
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from enum import IntEnum

import structlog
import uvloop

from service.admission.callers import KeyFileError
from service.admission.gate import Gate
from service.admission.key_file import KeyFile
from service.config import ServiceSettings
from service.demux.demultiplexer import Demultiplexer
from service.demux.flush_timer import FlushTimer, probe_event_loop
from service.demux.reader_progress import ReaderProgress
from service.directory import Directory
from service.domain import EngineFigures
from service.engine.protocol import EngineClient
from service.errors import EngineDead, EngineStartFailed, ServiceStopping, Unavailable
from service.pipeline import Limits, Pipeline
from service.stream.pacing import DelayGrid
from service.telemetry import logging
from service.telemetry.metrics import StreamMetrics
from service.transport.authentication import Authenticator
from service.transport.generation_servicer import GenerationServicer
from service.transport.model_servicer import ModelServicer
from service.transport.server import CannotListenError, Server
from service.transport.tls import TlsFiles, TlsFilesError

_log = structlog.get_logger(__name__)

_PROGRESS_EVERY_S = 5.0
_SWEEP_EVERY_S = 1.0
_READERS_EVERY_S = 0.05
_LAST_WORDS_S = 2.0  # for failed streams' readers to take what they can
_LAST_STATUS_S = 0.2  # for the last statuses to go out; open health watches end then too


class ExitStatus(IntEnum):
    """Of the process."""

    OK = 0
    ENGINE_DIED = 1
    CANNOT_START = 3


class Service:
    """One service process's parts. `engine` is the real one, or a scripted one in tests."""

    def __init__(self, settings: ServiceSettings, engine: EngineClient) -> None:
        self.settings = settings
        self.engine = engine
        self.metrics = StreamMetrics()
        self.gate = Gate(settings.max_streams, time.monotonic)
        self.demultiplexer = Demultiplexer(engine)
        self.progress = ReaderProgress(engine)
        self.metrics.watch_scheduler(lambda: self.progress.report)
        self.metrics.watch_engine(self._figures)
        self.metrics.watch(self.metrics.ready, lambda: self.ready)
        self.directory = Directory(settings.stall_limit_s, settings.max_retained_streams)
        self.grid = DelayGrid(time.monotonic)
        self.pipeline = Pipeline(
            engine,
            self.gate,
            self.demultiplexer,
            self.directory,
            self.grid,
            self.metrics,
            Limits(
                settings.max_request_bytes,
                settings.detached_ttl_s,
                settings.max_detached_ttl_s,
                settings.tell_every,
                settings.tell_first,
            ),
            self.progress,
        )
        authenticator = Authenticator(
            None if settings.api_keys_file is None else KeyFile(settings.api_keys_file)
        )
        self.generation_servicer = GenerationServicer(
            self.pipeline, authenticator, settings.max_sessions
        )
        self.metrics.watch(self.metrics.sessions, lambda: self.generation_servicer.sessions_open)
        self.server = Server(
            self.generation_servicer,
            ModelServicer(engine, self.gate, authenticator, settings.max_request_bytes),
            settings.max_request_bytes,
        )
        self.ready = False  # health says SERVING
        self._stop = asyncio.Event()
        self._stop_at_once = asyncio.Event()

    def stop(self) -> None:
        """Begin to stop; called again, do not wait for running streams."""
        if self._stop.is_set():
            self._stop_at_once.set()
        self._stop.set()

    async def run(self, ready: Callable[[int], None]) -> ExitStatus:
        """Serve until `stop` is called or the engine dies.

        `ready` is called once, with the server's port, when requests are welcome.

        Raises `CannotListenError`, `TlsFilesError` and `EngineStartFailed`, with everything
        cleaned up.
        """
        settings = self.settings
        tls = TlsFiles.of(
            settings.tls_certificate_file,
            settings.tls_private_key_file,
            settings.tls_client_ca_file,
        )
        port = await self.server.start(settings.listen, tls)
        try:
            if not await self._start_engine():
                return ExitStatus.OK
            demultiplexing = asyncio.create_task(self.demultiplexer.run())
            probing = asyncio.create_task(probe_event_loop(self._observe_loop))
            sweeping = asyncio.create_task(self._sweep())
            telling = asyncio.create_task(self.progress.run())
            timer = FlushTimer(self.grid)
            try:
                self.gate.open()
                await self.server.serving()
                self.ready = True
                self.metrics.tell_build(self.engine.build, self.engine.model.id)
                ready(port)
                await _first(self._stop.wait(), self.demultiplexer.died.wait())
                died = self.demultiplexer.died.is_set()
                if died:
                    _log.error("engine_died")
                await self._drain(EngineDead if died else ServiceStopping)
                if not died and (died := self.demultiplexer.died.is_set()):
                    _log.error("engine_died", while_="draining")
            finally:
                timer.close()
                tasks = (probing, sweeping, telling, demultiplexing)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            return ExitStatus.ENGINE_DIED if died else ExitStatus.OK
        finally:
            try:
                await self.server.stop(0)
            finally:
                _log.info("stopping_engine")
                await self.engine.stop()

    def _figures(self) -> EngineFigures:
        if not (ranks := tuple(self.engine.ranks())):
            return EngineFigures("")
        counts = self.demultiplexer.router.counts
        return EngineFigures(
            self.engine.model.id,
            ranks,
            self.progress.report.preemptions,
            counts.tokens_routed + counts.tokens_for_nobody,
        )

    def _observe_loop(self, lag_s: float, busy: float) -> None:
        self.grid.adaptive.observe(lag_s, busy)
        self.metrics.event_loop_lag.observe(lag_s)

    async def _sweep(self) -> None:
        """Find what has stalled or expired, often enough to meet the limits to a tenth."""
        limit_s = self.settings.stall_limit_s
        every_s = min(_SWEEP_EVERY_S, limit_s / 10, self.settings.detached_ttl_s / 10)
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(every_s)
            now = time.monotonic()
            # Readers are not to blame for a time in which this process did not come round.
            late_s, looked_at = now - looked_at - every_s, now
            forgiven_s = late_s if late_s > every_s else 0.0
            self.generation_servicer.sweep(now, limit_s, forgiven_s)
            self.pipeline.sweep(forgiven_s)

    async def _start_engine(self) -> bool:
        """Load the model, telling how it goes. False if `stop` was called meanwhile."""
        progress = _Progress(self.settings.model)
        starting = asyncio.create_task(self.engine.start(progress.phase))
        ticking = asyncio.create_task(progress.tick())
        try:
            await _first(starting, self._stop.wait())
            if not starting.done():
                ticking.cancel()
                _log.info("stopping", while_="loading the model")
                await self.engine.stop()
                starting.cancel()
                await asyncio.wait([starting])
                return False
            starting.result()
            progress.done()
            return True
        finally:
            ticking.cancel()

    async def _until_all_is_read(self) -> None:
        """Wait for what runs, and for who still reads what has run."""
        await self.gate.until_empty()
        while self.directory.being_read_again:  # noqa: ASYNC110 - readers leave in many ways
            await asyncio.sleep(_READERS_EVERY_S)

    async def _drain(self, because: type[Unavailable]) -> None:
        wait_s, grace_s = self.settings.drain_wait_s, self.settings.drain_grace_s
        self.ready = False
        await self.server.draining()
        if because is ServiceStopping and wait_s:
            _log.info("not_serving", streams=self.gate.held, wait_s=wait_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await _first(self._stop_at_once.wait(), self.demultiplexer.died.wait())
        self.gate.stop(because)
        _log.info("draining", streams=self.gate.held, grace_s=grace_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await _first(self._until_all_is_read(), self._stop_at_once.wait())
        if self.gate.held:
            _log.warning("streams_cut_off", streams=self.gate.held)
            self.demultiplexer.close(ServiceStopping)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.gate.until_empty()
                while not self.generation_servicer.sessions_have_said_all:  # noqa: ASYNC110
                    await asyncio.sleep(_READERS_EVERY_S)  # a frame is on its way to its caller
        # Callers keep sessions open without requests; those are told why theirs ends.
        self.generation_servicer.break_off_sessions(because())
        await self.server.stop(_LAST_STATUS_S)


class _Progress:
    """Tells what the engine does while it starts, and that it still does it."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._began = time.monotonic()
        self._phase = "starting"

    def phase(self, phase: str) -> None:
        self._phase = phase
        self._tell()

    async def tick(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_EVERY_S)
            self._tell()

    def done(self) -> None:
        _log.info("model_loaded", model=self._model, seconds=self._seconds())

    def _tell(self) -> None:
        _log.info("loading", model=self._model, phase=self._phase, seconds=self._seconds())

    def _seconds(self) -> int:
        return round(time.monotonic() - self._began)


async def _first(*waits: object) -> None:
    """Return when the first is done; those made here are cancelled."""
    tasks = [asyncio.ensure_future(w) for w in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, wait in zip(tasks, waits, strict=True):
            if task is not wait:
                task.cancel()


async def serve(settings: ServiceSettings, engine: EngineClient) -> ExitStatus:
    """Run a service in this process until a signal; its one line of failure goes to the log."""
    try:
        service = Service(settings, engine)
    except KeyFileError as error:
        return _cannot_start(str(error))
    if settings.keys_travel_in_clear:
        _log.warning("api_keys_without_tls", listen=settings.listen)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logging.unexpected)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)

    def ready(port: int) -> None:
        host = settings.listen.rpartition(":")[0]
        spare_long_lived_objects()
        _log.info("serving", address=f"{host}:{port}", model=engine.model.id)

    try:
        async with AsyncExitStack() as beside:
            try:
                await _serve_metrics(settings, service, beside)
            except OSError as error:
                where = settings.metrics_listen
                return _cannot_start(f"cannot listen on {where}: {error.strerror}")
            return await service.run(ready)
    except (CannotListenError, TlsFilesError, EngineStartFailed) as error:
        return _cannot_start(str(error))
    finally:
        gc.unfreeze()  # or extension modules report all of it as leaked when the process ends


def spare_long_lived_objects() -> None:
    """Keep the garbage collector from walking what will never be garbage.

    vLLM's imports leave 600,000 objects; a full collection over them stops all streams for a
    third of a second (docs/benchmarks.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


async def _serve_metrics(
    settings: ServiceSettings, service: Service, beside: AsyncExitStack
) -> None:
    """Serve metrics until `beside` is left. Raises OSError."""
    if settings.metrics_listen is None:
        return

    # Loads an HTTP server, which nobody else needs here.
    from service.telemetry.metrics_port import metrics_port

    async def is_ready() -> bool:
        return service.ready

    metrics = service.metrics
    await beside.enter_async_context(
        metrics_port(settings.metrics_listen, metrics.registry, metrics.refresh, is_ready)
    )


def _cannot_start(why: str) -> ExitStatus:
    print(f"tokenstream serve: {why}", file=sys.stderr)
    return ExitStatus.CANNOT_START


def main(settings: ServiceSettings) -> int:
    """Serve with vLLM. Returns the process's exit status."""
    import demo_model
    from service.engine.vllm_client import VllmEngine

    logging.configure(settings.log_format, settings.log_level)
    engine = VllmEngine(
        settings.model,
        settings.engine_args,
        settings.engine_log_level,
        demo_model.path(),
        settings.scheduler_settings,
        tells_figures=settings.metrics_listen is not None,
    )
    new_loop = uvloop.new_event_loop if settings.event_loop == "uvloop" else None
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return int(runner.run(serve(settings, engine)))
