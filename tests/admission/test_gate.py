import asyncio
from contextlib import ExitStack

import pytest

from service.admission.gate import (
    MAX_RETRY_AFTER_S,
    MIN_RETRY_AFTER_S,
    Gate,
    retry_after_s,
)
from service.errors import EngineLoading, Overloaded, ServiceStopping
from tests.conftest import FakeClock


@pytest.fixture
def gate(clock: FakeClock) -> Gate:
    gate = Gate(2, clock)
    gate.open()
    return gate


def test_a_closed_gate_says_that_the_model_is_loading(clock: FakeClock) -> None:
    gate = Gate(2, clock)
    with pytest.raises(EngineLoading), gate.admitted():
        pass
    with pytest.raises(EngineLoading):
        gate.check_open()
    assert gate.held == 0


def test_an_open_gate_admits_up_to_its_limit(gate: Gate) -> None:
    gate.check_open()
    with gate.admitted(), gate.admitted():
        assert gate.held == 2
        with pytest.raises(Overloaded), gate.admitted():
            pass
        assert gate.held == 2
    assert gate.held == 0
    with gate.admitted():
        assert gate.held == 1


def test_a_stopping_gate_admits_nobody_and_never_opens_again(gate: Gate) -> None:
    with gate.admitted():
        gate.stop()
        gate.open()
        with pytest.raises(ServiceStopping), gate.admitted():
            pass
        with pytest.raises(ServiceStopping):
            gate.check_open()
        assert gate.held == 1
    assert gate.held == 0


def test_a_gate_stopped_while_loading_stays_shut(clock: FakeClock) -> None:
    gate = Gate(2, clock)
    gate.stop()
    gate.open()
    with pytest.raises(ServiceStopping):
        gate.check_open()


def test_a_ticket_comes_back_whatever_ends_the_block(gate: Gate) -> None:
    for failure in (RuntimeError, asyncio.CancelledError, GeneratorExit):
        with pytest.raises(failure), gate.admitted():
            raise failure
        assert gate.held == 0


async def test_empty_is_when_the_last_ticket_is_back(gate: Gate) -> None:
    await gate.until_empty()
    with ExitStack() as second:
        with gate.admitted():
            second.enter_context(gate.admitted())
            waiting = asyncio.create_task(gate.until_empty())
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


@pytest.mark.parametrize(
    ("limit", "mean", "seconds"),
    [
        (1, None, 1.0),
        (10, 20.0, 2.0),
        (1, 2.5, 2.5),
        (1000, 20.0, MIN_RETRY_AFTER_S),
        (1, 0.0, MIN_RETRY_AFTER_S),
        (1, 1000.0, MAX_RETRY_AFTER_S),
    ],
)
def test_a_place_is_free_after_a_mean_stream_by_the_number_of_places(
    limit: int, mean: float | None, seconds: float
) -> None:
    assert retry_after_s(limit, mean) == seconds


def test_what_a_full_gate_advises_follows_the_streams_that_ended(
    gate: Gate, clock: FakeClock
) -> None:
    def advice(*, streamed: bool = True) -> float:
        with gate.admitted() as one, gate.admitted() as other:
            one.streamed = other.streamed = streamed
            with pytest.raises(Overloaded) as full, gate.admitted():
                pass
        return full.value.retry_after_s

    gate = Gate(2, clock)
    gate.open()
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(gate.admitted()).streamed = True
        with pytest.raises(Overloaded) as full, gate.admitted():
            pass
        assert full.value.retry_after_s == 1.0  # none has ended
        clock.now += 10
    # Two of ten seconds: the mean is ten, a place every five.
    assert advice(streamed=False) == pytest.approx(5.0)
    # Places that were taken without a stream say nothing about streams.
    assert advice() == pytest.approx(5.0)
    # Those two took no time: the mean has moved a tenth of the way, twice.
    assert advice() == pytest.approx(10 * 0.9 * 0.9 / 2)


def test_room_for_several_is_there_or_not_and_waits_for_as_many_as_are_missing(
    clock: FakeClock,
) -> None:
    gate = Gate(4, clock)
    gate.open()
    with gate.admitted() as ticket:
        ticket.streamed = True
        clock.now += 8
    with gate.admitted(), gate.admitted():
        gate.check_room(2)
        with pytest.raises(Overloaded) as full:
            gate.check_room(4)
    assert full.value.retry_after_s == 2 * 8 / 4
    gate.check_room(4)
    assert gate.held == 0
