import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.stream.pacing import ADAPTIVE_STEP_MS, MOST_ADAPTIVE_MS, AdaptiveDelay, DelayGrid
from tests.conftest import FakeClock

shares = st.floats(0, 1)
lags = st.floats(0, 1)
measurements = st.tuples(lags, shares)
moments = st.integers(0, 2**20).map(lambda ticks: ticks / 1024)  # exact as they are


class Noted:
    """A reader that notes when it was told, and may come back at once."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.told: list[int] = []

    def due(self, at_ms: int) -> None:
        assert at_ms <= self.clock.now * 1000
        self.told.append(at_ms)


class Armed:
    """Keeps what the grid asks its timer for."""

    def __init__(self, grid: DelayGrid) -> None:
        self.at_ms: list[int] = []
        grid.on_arm(self.at_ms.append)


@given(moments, st.integers(1, 1000))
def test_a_delay_ends_on_the_grid_neither_at_once_nor_later_than_it_is_long(
    now: float, delay_ms: int
) -> None:
    clock = FakeClock()
    clock.now = now
    at_ms = DelayGrid(clock).later(Noted(clock), delay_ms)
    assert at_ms % delay_ms == 0
    assert now * 1000 < at_ms <= now * 1000 + delay_ms


def test_readers_with_one_delay_are_due_together_however_their_messages_fell(
    clock: FakeClock,
) -> None:
    grid, readers = DelayGrid(clock), [Noted(clock) for _ in range(3)]
    moments = set()
    for reader in readers:
        moments.add(grid.later(reader, 64))
        clock.now += 1 / 64
    assert len(moments) == 1
    clock.now = moments.pop() / 1000
    grid.fire()
    assert [len(reader.told) for reader in readers] == [1, 1, 1]


def test_the_timer_is_set_for_an_earlier_moment_only(clock: FakeClock) -> None:
    grid = DelayGrid(clock)
    armed = Armed(grid)
    long, short = (grid.later(Noted(clock), delay_ms) for delay_ms in (700, 3))
    grid.later(Noted(clock), 3)
    grid.later(Noted(clock), 90)
    assert armed.at_ms == [long, short]


def test_firing_tells_whose_moment_has_come_once_and_sets_the_timer_for_the_next(
    clock: FakeClock,
) -> None:
    grid = DelayGrid(clock)
    armed, soon, late = Armed(grid), Noted(clock), Noted(clock)
    first, second = grid.later(soon, 20), grid.later(late, 800)
    clock.now = (first + 1) / 1000
    grid.fire()
    grid.fire()
    assert (soon.told, late.told) == ([first], [])
    assert armed.at_ms[-1] == second
    clock.now = (second + 1) / 1000
    grid.fire()
    assert (soon.told, late.told) == ([first], [second])


def test_a_timer_that_comes_early_is_set_again_and_tells_nobody(clock: FakeClock) -> None:
    grid = DelayGrid(clock)
    armed, reader = Armed(grid), Noted(clock)
    at_ms = grid.later(reader, 50)
    clock.now = at_ms / 1000 - 0.001
    grid.fire()
    assert reader.told == []
    assert armed.at_ms == [at_ms, at_ms]


def test_after_all_were_told_the_next_delay_sets_the_timer_anew(clock: FakeClock) -> None:
    grid = DelayGrid(clock)
    armed = Armed(grid)
    first = grid.later(Noted(clock), 50)
    clock.now = first / 1000 + 0.001
    grid.fire()
    assert armed.at_ms == [first]
    second = grid.later(Noted(clock), 50)
    assert armed.at_ms == [first, second]


class ComesBack(Noted):
    """Waits again as soon as it is told."""

    grid: DelayGrid

    def due(self, at_ms: int) -> None:
        super().due(at_ms)
        self.grid.later(self, 10)


def test_a_reader_that_waits_again_when_it_is_told_waits_for_the_next_moment(
    clock: FakeClock,
) -> None:
    reader = ComesBack(clock)
    reader.grid = DelayGrid(clock)
    armed = Armed(reader.grid)
    first = reader.grid.later(reader, 10)
    clock.now = first / 1000 + 0.001
    reader.grid.fire()
    assert reader.told == [first]
    assert armed.at_ms[-1] == first + 10


def observed(*measurements: tuple[float, float]) -> AdaptiveDelay:
    adaptive = AdaptiveDelay()
    for lag_s, busy in measurements:
        adaptive.observe(lag_s, busy)
    return adaptive


@given(st.lists(measurements, max_size=20), lags, lags, shares, shares)
def test_the_adaptive_delay_is_never_shorter_when_the_loop_is_worse_off(
    before: list[tuple[float, float]], lag_s: float, more_s: float, busy: float, more: float
) -> None:
    better = observed(*before, (lag_s, busy))
    worse = observed(*before, (lag_s + more_s, min(1.0, busy + more)))
    assert better.delay_ms <= worse.delay_ms


@given(st.lists(measurements, max_size=40))
def test_the_adaptive_delay_has_a_bound_and_few_values(taken: list[tuple[float, float]]) -> None:
    adaptive = AdaptiveDelay()
    for lag_s, busy in taken:
        adaptive.observe(lag_s, busy)
        assert adaptive.delay_ms in range(0, MOST_ADAPTIVE_MS + 1, ADAPTIVE_STEP_MS)


def test_a_loop_that_keeps_up_delays_nothing() -> None:
    assert AdaptiveDelay().delay_ms == 0
    assert observed(*[(0.012, 0.5)] * 100).delay_ms == 0


@pytest.mark.parametrize("measurement", [(0.03, 0.0), (0.0, 0.7)], ids=["late", "busy"])
def test_a_loop_that_does_not_keep_up_delays_more_and_more_to_a_bound(
    measurement: tuple[float, float],
) -> None:
    delays = [observed(*[measurement] * times).delay_ms for times in range(8)]
    assert delays == [0, 10, 20, 30, 40, 50, 50, 50]


def test_a_delay_that_is_enough_stays() -> None:
    risen = [(0.03, 0.9)] * 5
    assert observed(*risen, *[(0.005, 0.5)] * 100).delay_ms == MOST_ADAPTIVE_MS
    assert observed(*risen, *[(0.015, 0.1)] * 100).delay_ms == MOST_ADAPTIVE_MS


def test_a_loop_at_ease_gives_the_delay_up_slowly() -> None:
    risen, calm = [(1.0, 1.0)] * 9, (0.0, 0.1)
    delays = [observed(*risen, *[calm] * times).delay_ms for times in range(31)]
    assert delays == sorted(delays, reverse=True)
    assert (delays[4], delays[5], delays[-1]) == (50, 40, 0)
    assert observed(*risen, *[calm, calm, (0.015, 0.5)] * 30).delay_ms == MOST_ADAPTIVE_MS
