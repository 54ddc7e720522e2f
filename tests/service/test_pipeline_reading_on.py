from collections.abc import AsyncIterator

import pytest

from service.engine.scripted import ScriptedEngine
from service.errors import (
    InvalidRequest,
    PositionOutOfRange,
    StreamNotFound,
)
from service.telemetry.outcomes import Outcome
from tests.service.parts import NOTHING, TENANT, Parts, detached, now, request
from tests.service.running import eventually


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    parts = Parts(ScriptedEngine(step_s=None))
    yield parts
    await parts.close()


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
