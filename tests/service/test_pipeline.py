import asyncio
from collections.abc import AsyncIterator

import pytest
import structlog

from service.domain import (
    EngineFinish,
    FinishReason,
    GenerationRequest,
    TextPrompt,
)
from service.engine.protocol import RenderedRequest
from service.engine.scripted import ScriptedEngine
from service.errors import (
    DeadlineExceeded,
    EngineDead,
    InvalidRequest,
    Overloaded,
    RequestFailed,
    Unauthenticated,
)
from service.telemetry.outcomes import Outcome
from tests.service.parts import NOTHING, TENANT, Parts, detached, now, request
from tests.service.running import eventually


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    parts = Parts(ScriptedEngine(step_s=None))
    yield parts
    await parts.close()


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
        parts.metrics.refresh()
        return parts.metrics.registry.get_sample_value(f"tokenstream_{name}")

    plain, kept = await parts.open(request()), await parts.open(detached())
    assert (sample("streams_running"), sample("streams_detached")) == (2, 0)
    kept.leave()
    assert (sample("streams_running"), sample("streams_detached")) == (2, 1)
    await plain.rest(parts)
    await eventually(lambda: sample("streams_running") == 0)
    assert (sample("streams_detached"), sample("streams_retained")) == (0, 1)
    tokens = parts.metrics.registry.get_sample_value(
        "tokenstream_tokens_delivered_total", {"tenant": TENANT}
    )
    assert tokens == 3
    assert sample("time_to_first_token_seconds_count") == 2
    parts.grid.adaptive.observe(1.0, 0.0)
    assert sample("adaptive_delay_seconds") == 0.01
