import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
import structlog

from service.admission.gate import Gate
from service.demux.demultiplexer import Demultiplexer
from service.demux.flush_timer import FlushTimer
from service.directory import Directory
from service.domain import (
    DeliveryOptions,
    EngineFinish,
    FinishReason,
    GenerationRequest,
    OnDisconnect,
    SamplingOptions,
    TextPrompt,
)
from service.engine.protocol import RenderedRequest
from service.engine.scripted import ScriptedEngine
from service.errors import (
    DeadlineExceeded,
    EngineDead,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PositionOutOfRange,
    RequestFailed,
    ServiceError,
    ServiceStopping,
    StreamNotFound,
    StreamStalled,
    Unauthenticated,
    Unavailable,
)
from service.generation import Generation
from service.pipeline import Limits, Pipeline
from service.stream.pacing import DelayGrid
from service.stream.reader import StreamReader
from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome, outcome_of, outcome_of_finish
from service.transport.wakeup import Wakeup
from tests.service.running import eventually

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
            now,
        )
        self.gate.open()
        self.running = asyncio.create_task(self.demultiplexer.run())

    async def open(self, request: GenerationRequest, remaining_s: float | None = None) -> "Reading":
        """Open a stream and begin to read it."""
        generation = await self.pipeline.open(request, TENANT, remaining_s)
        reading = Reading(generation)
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
        delta = self.reader.take()
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


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    parts = Parts(ScriptedEngine(step_s=None))
    yield parts
    await parts.close()


def request(text: str = "ab", **sampling: object) -> GenerationRequest:
    return GenerationRequest(
        TextPrompt(text),
        sampling=SamplingOptions(**sampling),  # type: ignore[arg-type]
    )


def detached(time_to_live_s: float | None = None) -> GenerationRequest:
    delivery = DeliveryOptions(on_disconnect=OnDisconnect.DETACH, time_to_live_s=time_to_live_s)
    return replace(request(), delivery=delivery)


async def test_a_whole_stream_and_what_is_left_of_it(parts: Parts) -> None:
    reading = await parts.open(request())
    assert parts.gate.held == len(parts.demultiplexer.router) == len(parts.directory) == 1
    started = reading.generation.started()
    assert (started.model, started.prompt_tokens) == ("scripted", 2)
    assert await reading.rest(parts) == "ab"
    assert reading.generation.finished().finish == EngineFinish(FinishReason.STOP)
    assert parts.left == NOTHING
    assert len(parts.directory) == 0
    assert parts.counted() == {Outcome.STOP: 1}


async def test_every_stream_has_an_id_that_cannot_be_guessed(parts: Parts) -> None:
    ids = {(await parts.open(request())).generation.stream_id for _ in range(5)}
    assert len(ids) == 5
    assert min(map(len, ids)) >= 22  # 128 bits


async def test_a_reader_that_leaves_releases_everything(parts: Parts) -> None:
    (await parts.open(request())).leave()
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.DISCONNECTED: 1}


async def test_with_stop_strings_the_engine_is_stopped_at_the_match(parts: Parts) -> None:
    reading = await parts.open(request("abcdef", stop=("cd",)))
    assert await reading.rest(parts) == "ab"
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.STOP_STRING: 1}


async def test_a_task_that_is_cancelled_while_it_opens_releases_everything() -> None:
    parts = Parts(SlowRenderer(step_s=None))
    task = asyncio.create_task(parts.open(request()))
    await eventually(lambda: parts.gate.held == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert parts.left == NOTHING
    assert parts.counted() == {Outcome.DISCONNECTED: 1}
    await parts.close()


class SlowRenderer(ScriptedEngine):
    """Never gets to the end of a prompt."""

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        await asyncio.Event().wait()
        raise AssertionError


# -- deadlines -----------------------------------------------------------------------------------


async def test_the_deadline_ends_the_rendering_too() -> None:
    parts = Parts(SlowRenderer(step_s=None))
    with pytest.raises(DeadlineExceeded):
        await parts.open(request(), 0.01)
    assert parts.left == NOTHING
    assert parts.counted() == {Outcome.DEADLINE: 1}
    await parts.close()


async def test_the_deadline_gives_out_what_was_decoded_first(parts: Parts) -> None:
    reading = await parts.open(request(), 0.2)
    parts.engine.step()
    assert await reading.next_text() == "a"
    with pytest.raises(DeadlineExceeded):
        await reading.rest()
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.DEADLINE: 1}


async def test_a_deadline_that_has_passed_reaches_no_engine_for_long(parts: Parts) -> None:
    with pytest.raises(DeadlineExceeded):
        await (await parts.open(request(), -1.0)).rest()
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.DEADLINE: 1}


async def test_a_deadline_in_time_leaves_no_timer(parts: Parts) -> None:
    timers = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009 - asyncio's own
    await (await parts.open(request(), 1000)).rest(parts)
    assert not [timer for timer in timers if timer.when() > now() + 500 and not timer.cancelled()]
    assert parts.counted() == {Outcome.STOP: 1}


async def test_the_deadline_ends_a_detached_stream_too(parts: Parts) -> None:
    reading = await parts.open(detached(), 0.05)
    reading.leave()
    assert parts.counted() == {}
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.DEADLINE: 1}


# -- refusals ------------------------------------------------------------------------------------


async def test_a_bad_request_is_refused_before_the_engine(parts: Parts) -> None:
    with pytest.raises(InvalidRequest):
        await parts.open(request(temperature=-1.0))
    assert parts.engine.submitted == 0
    assert parts.counted() == {Outcome.REFUSED: 1}


async def test_what_never_came_as_far_is_counted_too(parts: Parts) -> None:
    parts.pipeline.refused(Unauthenticated("no key"))
    assert parts.counted() == {Outcome.UNAUTHENTICATED: 1}


async def test_a_dead_engine_takes_no_request(parts: Parts) -> None:
    parts.engine.die()
    await parts.demultiplexer.died.wait()
    with pytest.raises(EngineDead):
        await parts.open(request())
    assert parts.left == NOTHING
    assert parts.counted() == {Outcome.UNAVAILABLE: 1}


async def test_an_engine_that_dies_at_the_submission_takes_no_request(parts: Parts) -> None:
    parts.engine._dead = True  # it is not told yet
    with pytest.raises(EngineDead):
        await parts.open(request())
    assert parts.left == NOTHING
    assert len(parts.directory) == 0


@pytest.mark.xfail(reason="it is kept as if it could be read again", strict=True)
async def test_a_stream_that_was_to_outlive_its_reader_and_never_began_is_not_kept(
    parts: Parts,
) -> None:
    parts.engine._dead = True
    with pytest.raises(EngineDead):
        await parts.open(detached())
    parts.directory.sweep(now() + 1e6)
    assert len(parts.directory) == 0


async def test_a_full_gate_refuses(parts: Parts) -> None:
    parts.gate._limit = 0
    with pytest.raises(Overloaded):
        await parts.open(request())
    assert parts.counted() == {Outcome.OVERLOADED: 1}


async def test_an_unexpected_failure_is_logged_and_hidden(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.engine, "submit", None)
    with structlog.testing.capture_logs() as log, pytest.raises(RequestFailed) as failed:
        await parts.open(request())
    assert str(failed.value) == "the engine could not complete this request"
    assert [entry["event"] for entry in log] == ["request_ended", "request_failed"] or [
        entry["event"] for entry in log
    ] == ["request_failed", "request_ended"]
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.FAILED: 1}


# -- cancelling and reading on -------------------------------------------------------------------


async def test_a_cancelled_stream_gives_out_what_was_decoded_and_settles(parts: Parts) -> None:
    reading = await parts.open(request())
    parts.engine.step()
    await reading.next_text()
    parts.pipeline.cancel(reading.generation.stream_id, TENANT)
    assert await reading.rest() == ""
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.CANCELLED: 1}


@pytest.mark.parametrize("why", ["unknown", "another tenant's", "cancelled", "ended"])
async def test_a_stream_that_cannot_be_cancelled_is_not_found(parts: Parts, why: str) -> None:
    reading = await parts.open(request())
    stream_id = "nothing" if why == "unknown" else reading.generation.stream_id
    if why == "cancelled":
        parts.pipeline.cancel(stream_id, TENANT)
    elif why == "ended":
        await reading.rest(parts)
    with pytest.raises(StreamNotFound):
        parts.pipeline.cancel(stream_id, "other" if why == "another tenant's" else TENANT)


async def test_a_detached_stream_goes_on_and_is_read_on_where_its_reader_left(
    parts: Parts,
) -> None:
    first = await parts.open(detached())
    parts.engine.step()
    assert await first.next_text() == "a"
    first.leave()
    assert parts.counted() == {}
    assert parts.gate.held == 1
    again = parts.resume(first.generation.stream_id, 1)
    assert await again.rest(parts) == "b"
    assert again.generation.finished().usage.completion_tokens == 3
    assert parts.counted() == {Outcome.STOP: 1}
    assert parts.left == NOTHING
    whole = parts.resume(first.generation.stream_id, 0)
    assert await whole.rest() == "ab"
    assert parts.counted() == {Outcome.STOP: 1}


async def test_a_detached_stream_that_ends_alone_gives_its_place_back(parts: Parts) -> None:
    reading = await parts.open(detached())
    reading.leave()
    for _ in range(3):
        parts.engine.step()
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.STOP: 1}
    assert parts.directory.retained == 1


async def test_a_detached_stream_can_be_cancelled(parts: Parts) -> None:
    reading = await parts.open(detached())
    reading.leave()
    parts.pipeline.cancel(reading.generation.stream_id, TENANT)
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.CANCELLED: 1}


@pytest.mark.parametrize(
    ("wanted_s", "lives_s"), [(None, 5.0), (2.0, 2.0), (20.0, 20.0), (1e6, 20.0)]
)
async def test_a_detached_stream_lives_as_long_as_it_asked_for_and_the_service_allows(
    parts: Parts, wanted_s: float | None, lives_s: float
) -> None:
    reading = await parts.open(detached(wanted_s))
    reading.leave()
    parts.directory.sweep(now() + lives_s - 1.0)
    assert parts.counted() == {}
    parts.directory.sweep(now() + lives_s)
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.EXPIRED: 1}
    with pytest.raises(StreamNotFound):
        parts.resume(reading.generation.stream_id, 0)


async def test_who_may_not_read_on_and_from_where(parts: Parts) -> None:
    plain, kept = await parts.open(request()), await parts.open(detached())
    with pytest.raises(StreamNotFound):
        parts.resume(plain.generation.stream_id, 0)
    with pytest.raises(StreamNotFound):
        parts.resume(kept.generation.stream_id, 0, tenant="other")
    with pytest.raises(PositionOutOfRange):
        parts.resume(kept.generation.stream_id, 1)
    with pytest.raises(InvalidRequest):
        parts.resume(kept.generation.stream_id, 0, max_delay_s=2.0)
    assert not kept.reader.closed, "the reader that was there stays"


# -- figures -------------------------------------------------------------------------------------


async def test_the_log_of_a_request_has_its_figures_and_none_of_its_text(parts: Parts) -> None:
    secret = GenerationRequest(TextPrompt("a secret"), client_request_id="mine")
    with structlog.testing.capture_logs() as log:
        reading = await parts.open(secret)
        await reading.rest(parts)
    (entry,) = log
    assert entry["event"] == "request_ended"
    assert entry["client_request_id"] == "mine"
    assert entry["tenant"] == TENANT
    assert entry["outcome"] == "stop"
    assert entry["prompt_tokens"] == 8
    assert entry["output_tokens"] == 9
    assert 0 <= entry["first_token_s"] <= entry["total_s"]
    assert "secret" not in repr(entry)
    assert reading.generation.stream_id not in repr(entry), "it is its owner's"


async def test_metrics_count_tokens_and_streams(parts: Parts) -> None:
    def sample(name: str) -> float | None:
        return parts.metrics.registry.get_sample_value(f"tokenstream_{name}")

    plain, kept = await parts.open(request()), await parts.open(detached())
    assert (sample("streams_running"), sample("streams_detached")) == (2, 0)
    kept.leave()
    assert (sample("streams_running"), sample("streams_detached")) == (2, 1)
    await plain.rest(parts)
    await eventually(lambda: sample("streams_running") == 0)
    assert (sample("streams_detached"), sample("streams_retained")) == (0, 1)
    assert sample("tokens_delivered_total") == 3
    assert sample("time_to_first_token_seconds_count") == 2
    parts.grid.adaptive.observe(1.0)
    assert sample("adaptive_delay_seconds") == 0.05


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest(()), Outcome.REFUSED),
        (ModelNotFound("a", "b"), Outcome.REFUSED),
        (Overloaded(1, 1), Outcome.OVERLOADED),
        (DeadlineExceeded(), Outcome.DEADLINE),
        (StreamStalled(1), Outcome.STALLED),
        (Unauthenticated("who"), Outcome.UNAUTHENTICATED),
        (ServiceStopping(), Outcome.STOPPING),
        (EngineDead(), Outcome.UNAVAILABLE),
        (Unavailable(), Outcome.UNAVAILABLE),
        (RequestFailed(), Outcome.FAILED),
    ],
)
def test_every_error_is_counted_as_an_outcome(error: ServiceError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_every_finish_is_counted_as_an_outcome() -> None:
    finishes = [EngineFinish(reason) for reason in FinishReason]
    assert len({outcome_of_finish(finish) for finish in finishes}) == len(finishes)
    assert outcome_of_finish(EngineFinish(FinishReason.STOP, "x")) is Outcome.STOP_STRING
    assert outcome_of_finish(EngineFinish(FinishReason.STOP, 7)) is Outcome.STOP
