import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest
import structlog

from service.admission.gate import Gate
from service.demux.demultiplexer import Demultiplexer
from service.domain import (
    Delta,
    EngineFinish,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    SamplingOptions,
    Started,
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
    RequestFailed,
    ServiceError,
    ServiceStopping,
    StreamNotFound,
    Unavailable,
)
from service.pipeline import Pipeline
from service.telemetry.metrics import StreamMetrics
from service.telemetry.outcomes import Outcome, outcome_of, outcome_of_finish
from tests.service.running import eventually


class Parts:
    """A pipeline with a scripted engine, without a wire."""

    def __init__(self, engine: ScriptedEngine, limit: int = 10) -> None:
        self.engine = engine
        self.gate = Gate(limit, asyncio.get_running_loop().time)
        self.demultiplexer = Demultiplexer(engine)
        self.metrics = StreamMetrics()
        self.pipeline = Pipeline(
            engine,
            self.gate,
            self.demultiplexer,
            self.metrics,
            1000,
            asyncio.get_running_loop().time,
        )
        self.gate.open()
        self.running = asyncio.create_task(self.demultiplexer.run())

    async def close(self) -> None:
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    @property
    def left(self) -> tuple[int, int, list[str]]:
        return self.gate.held, len(self.demultiplexer.router), self.engine.running_ids

    def counted(self) -> dict[Outcome, int]:
        return {o: n for o in Outcome if (n := self.metrics.count(o))}


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


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_the_events_of_a_whole_stream(parts: Parts) -> None:
    events: list[Event] = []
    async for event in parts.pipeline.generate(request()):
        events.append(event)
        parts.engine.step()
    start, *deltas, end = events
    assert isinstance(start, Started)
    assert all(isinstance(delta, Delta) for delta in deltas)
    assert isinstance(end, Finished)
    assert end.finish == EngineFinish(FinishReason.STOP)
    assert parts.left == NOTHING
    assert parts.counted() == {Outcome.STOP: 1}


async def test_closing_the_generator_releases_everything(parts: Parts) -> None:
    async with aclosing(parts.pipeline.generate(request())) as events:
        await anext(events)
        assert parts.gate.held == len(parts.demultiplexer.router) == 1
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.DISCONNECTED: 1}


async def test_a_cancelled_task_releases_everything(parts: Parts) -> None:
    async def read() -> None:
        async with aclosing(parts.pipeline.generate(request())) as events:
            async for _ in events:
                pass

    task = asyncio.create_task(read())
    await eventually(lambda: parts.engine.submitted == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.DISCONNECTED: 1}


class SlowRenderer(ScriptedEngine):
    """Never gets to the end of a prompt."""

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        await asyncio.Event().wait()
        raise AssertionError


async def test_the_deadline_ends_the_rendering_too() -> None:
    parts = Parts(SlowRenderer(step_s=None))
    with pytest.raises(DeadlineExceeded):
        await anext(parts.pipeline.generate(request(), now() + 0.01))
    assert parts.left == NOTHING
    assert parts.counted() == {Outcome.DEADLINE: 1}
    await parts.close()


async def test_the_deadline_gives_out_what_was_decoded_first(parts: Parts) -> None:
    events = parts.pipeline.generate(request(), now() + 0.2)
    await anext(events)
    parts.engine.step()
    assert await anext(events) == Delta(0, (ord("a"),), "a")
    with pytest.raises(DeadlineExceeded):
        await anext(events)
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.DEADLINE: 1}


async def test_a_deadline_that_has_passed_reaches_no_engine_for_long(parts: Parts) -> None:
    with pytest.raises(DeadlineExceeded):
        async for _ in parts.pipeline.generate(request(), now() - 1):
            pass
    await eventually(lambda: parts.left == NOTHING)


async def test_a_deadline_in_time_leaves_no_timer(parts: Parts) -> None:
    timers = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009 - asyncio's own
    async for _ in parts.pipeline.generate(request(), now() + 1000):
        parts.engine.step()
    assert not [timer for timer in timers if timer.when() > now() + 500 and not timer.cancelled()]
    assert parts.counted() == {Outcome.STOP: 1}


async def test_a_bad_request_is_refused_before_the_engine(parts: Parts) -> None:
    with pytest.raises(InvalidRequest):
        await anext(parts.pipeline.generate(request(temperature=-1.0)))
    assert parts.engine.submitted == 0
    assert parts.counted() == {Outcome.REFUSED: 1}


async def test_a_dead_engine_takes_no_request(parts: Parts) -> None:
    parts.engine.die()
    await parts.demultiplexer.died.wait()
    with pytest.raises(EngineDead):
        await anext(parts.pipeline.generate(request()))
    assert parts.left == NOTHING
    assert parts.counted() == {Outcome.UNAVAILABLE: 1}


async def test_an_engine_that_dies_at_the_submission_takes_no_request(parts: Parts) -> None:
    parts.engine._dead = True  # it is not told yet
    with pytest.raises(EngineDead):
        await anext(parts.pipeline.generate(request()))
    assert parts.left == NOTHING


async def test_a_full_gate_refuses(parts: Parts) -> None:
    parts.gate._limit = 0
    with pytest.raises(Overloaded):
        await anext(parts.pipeline.generate(request()))
    assert parts.counted() == {Outcome.OVERLOADED: 1}


async def test_an_unexpected_failure_is_logged_and_hidden(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.engine, "submit", None)
    with structlog.testing.capture_logs() as log, pytest.raises(RequestFailed) as failed:
        await anext(parts.pipeline.generate(request()))
    assert str(failed.value) == "the engine could not complete this request"
    assert [entry["event"] for entry in log] == ["request_failed", "request_ended"]
    await eventually(lambda: parts.left == NOTHING)
    assert parts.counted() == {Outcome.FAILED: 1}


async def test_cancelling_nothing_is_an_error(parts: Parts) -> None:
    with pytest.raises(StreamNotFound):
        parts.pipeline.cancel("nothing")


async def test_the_log_of_a_request_has_its_figures_and_none_of_its_text(parts: Parts) -> None:
    secret = GenerationRequest(TextPrompt("a secret"), client_request_id="mine")
    with structlog.testing.capture_logs() as log:
        async for _ in parts.pipeline.generate(secret):
            parts.engine.step()
    (entry,) = log
    assert entry["event"] == "request_ended"
    assert entry["client_request_id"] == "mine"
    assert entry["outcome"] == "stop"
    assert entry["prompt_tokens"] == 8
    assert entry["output_tokens"] == 9
    assert 0 <= entry["first_token_s"] <= entry["total_s"]
    assert "secret" not in repr(entry)


async def test_metrics_count_tokens_and_running_streams(parts: Parts) -> None:
    sample = parts.metrics.registry.get_sample_value
    async for _ in parts.pipeline.generate(request()):
        assert sample("tokenstream_streams_running") == 1
        parts.engine.step()
    assert sample("tokenstream_streams_running") == 0
    assert sample("tokenstream_tokens_delivered_total") == 3
    assert sample("tokenstream_time_to_first_token_seconds_count") == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidRequest(()), Outcome.REFUSED),
        (ModelNotFound("a", "b"), Outcome.REFUSED),
        (Overloaded(1, 1), Outcome.OVERLOADED),
        (DeadlineExceeded(), Outcome.DEADLINE),
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
