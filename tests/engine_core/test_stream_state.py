import itertools

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from service.config import ServiceSettings
from service.engine_core.settings import Said, Settings
from service.engine_core.stream_state import StreamState
from service.stream.token_stream import TokenStream

moments = st.integers(0, 2**20).map(lambda ticks: ticks / 64)  # exact as they are
spans = st.integers(0, 2**10).map(lambda ticks: ticks / 64)
rates = st.floats(0.5, 1000)


def state_of(arrived: float = 100.0, **said: float | None) -> StreamState:
    return StreamState("a", Said(**said), arrived)  # type: ignore[arg-type]


def test_a_first_token_is_due_at_its_target() -> None:
    assert state_of(100.0, first_token_target_s=2.5, reading_rate=4.0).due_at() == 102.5


@given(moments, spans, moments, rates)
def test_a_first_token_is_due_at_the_sooner_of_target_and_deadline(
    arrived: float, target_s: float, deadline: float, rate: float
) -> None:
    state = state_of(arrived, first_token_target_s=target_s, deadline=deadline, reading_rate=rate)
    assert state.due_at() == min(arrived + target_s, deadline)


@given(moments, spans, moments)
def test_for_a_reader_without_a_rate_it_is_due_no_earlier_and_by_the_deadline(
    arrived: float, target_s: float, deadline: float
) -> None:
    said = {"first_token_target_s": target_s, "deadline": deadline}
    due_at = state_of(arrived, **said).due_at()
    assert state_of(arrived, **said, reading_rate=4.0).due_at() <= due_at <= deadline


@given(moments, spans, st.none() | moments, st.none() | rates)
def test_without_a_token_a_reader_runs_dry_when_the_first_one_is_due(
    arrived: float, target_s: float, deadline: float | None, rate: float | None
) -> None:
    state = state_of(arrived, first_token_target_s=target_s, deadline=deadline, reading_rate=rate)
    assert state.runs_dry_at() == state.due_at()


@given(moments, st.integers(0, 1000))
def test_a_reader_without_a_rate_is_dry_from_its_first_token_on(first: float, tokens: int) -> None:
    state = state_of()
    state.first_token_at, state.tokens = first, tokens
    assert state.runs_dry_at() == first


def test_a_reader_runs_dry_when_it_has_read_all_tokens_at_its_rate() -> None:
    state = state_of(reading_rate=4.0)
    state.first_token_at, state.tokens = 101.0, 20
    assert state.runs_dry_at() == 106.0


@given(rates, moments, st.integers(0, 1000), st.integers(1, 1000))
def test_a_reader_runs_dry_later_the_more_tokens_it_has(
    rate: float, first: float, tokens: int, more: int
) -> None:
    fewer, many = state_of(reading_rate=rate), state_of(reading_rate=rate)
    fewer.first_token_at = many.first_token_at = first
    fewer.tokens, many.tokens = tokens, tokens + more
    assert first <= fewer.runs_dry_at() < many.runs_dry_at()


parkings = st.lists(st.tuples(st.sampled_from(["park", "unpark"]), spans), max_size=12)


@given(moments, st.lists(spans, max_size=2), parkings, spans)
def test_the_parts_of_an_account_sum_to_the_time_since_arrival(
    arrived: float, until: list[float], moves: list[tuple[str, float]], last: float
) -> None:
    state, now = state_of(arrived), arrived
    for name, span in zip(("admitted_at", "first_token_at"), until, strict=False):
        now += span
        setattr(state, name, now)
    parked_s, parked = 0.0, False
    for move, span in moves if len(until) == 2 else []:
        parked_s += span * parked
        now += span
        parked = move == "park"
        getattr(state, move)(now)
        assert state.parked == parked
    now += last
    parked_s += last * parked

    account = state.account(now)

    parts = {name: account[f"{name}_s"] for name in ("queued", "prefill", "decode", "parked")}
    assert sum(parts.values()) == now - arrived
    assert min(parts.values()) >= 0
    assert parts["parked"] == parked_s
    assert parts["queued"] == (until[0] if until else now - arrived)
    if len(until) < 2:
        assert parts["decode"] == 0
    else:
        assert parts["prefill"] == until[1]


def test_an_account_tells_each_wait_by_its_name() -> None:
    state = state_of(100.0)
    state.admitted_at, state.first_token_at, state.preemptions = 101.0, 103.0, 2
    state.park(106.0)
    state.unpark(110.0)
    state.park(115.0)
    assert state.account(116.0) == {
        "queued_s": 1.0,
        "prefill_s": 2.0,
        "decode_s": 8.0,
        "parked_s": 5.0,
        "preemptions": 2,
    }


def test_to_look_at_an_account_changes_nothing() -> None:
    state = state_of(100.0)
    state.admitted_at = state.first_token_at = 100.0
    state.park(101.0)
    assert state.account(103.0) == state.account(103.0)
    assert state.account(104.0)["parked_s"] == 3.0


@pytest.mark.parametrize("times", [1, 3])
def test_who_is_parked_again_is_parked_since_the_first_time(times: int) -> None:
    state = state_of(100.0)
    state.admitted_at = state.first_token_at = 100.0
    for number in range(times):
        state.park(101.0 + number)
    for number in range(times):
        state.unpark(110.0 + number)
    assert not state.parked
    assert state.account(120.0)["parked_s"] == 9.0


def ahead(position: int, settings: Settings, *, slow_start: bool = True) -> int:
    state = StreamState("a", Said(slow_start=slow_start), 0.0, position=position)
    return state.may_be_ahead(settings.high_mark, settings.first_mark)


@given(st.integers(0, 1000), st.integers(1, 500), st.integers(1, 500))
def test_a_reader_is_given_one_more_for_each_token_that_it_took_up_to_the_high_mark(
    position: int, high: int, first: int
) -> None:
    settings = Settings(high_mark=high, first_mark=first, low_mark=0)
    assert ahead(position, settings) == min(high, first + position)
    assert ahead(position, settings, slow_start=False) == high


def lowest_ahead_to_go_on(position: int, settings: Settings, *, slow_start: bool = True) -> int:
    """As many as a parked request may be ahead of a reader that is told to be there."""
    return min(settings.low_mark, ahead(position, settings, slow_start=slow_start) // 2)


class Telling:
    """A reader, and what the service tells of it: its own stream, with the intervals it sets."""

    def __init__(self, configured: ServiceSettings) -> None:
        self.position = 0
        self.told = [0]
        self.stream = TokenStream(
            lambda: 0.0,
            on_progress=self.told.append,
            tell_every=configured.tell_every,
            tell_first=configured.tell_first,
        )

    def read(self, tokens: int) -> None:
        """As `StreamReader` does after each message."""
        self.position += tokens
        if self.position >= self.stream.tell_at:
            self.stream.tell(self.position)


def marks(high: int, low: int, first: int) -> tuple[ServiceSettings, Settings]:
    """The same three for the service and for its scheduler."""
    configured = ServiceSettings(high_mark=high, low_mark=low, first_mark=first)
    given_to_engine = configured.scheduler_settings
    settings = Settings.from_additional_config({"tokenstream": given_to_engine})
    assert (settings.high_mark, settings.low_mark, settings.first_mark) == (high, low, first)
    return configured, settings


def check_goes_on(
    configured: ServiceSettings, settings: Settings, sizes: list[int], *, slow_start: bool
) -> None:
    """Decode to the limit, read all of that in messages of these sizes, and so on."""
    reader = Telling(configured)
    messages = itertools.cycle(sizes)
    while reader.position < 3 * settings.high_mark:
        out = reader.told[-1] + ahead(reader.told[-1], settings, slow_start=slow_start)
        assert out > reader.position  # something is left to read when it is parked
        tellings = len(reader.told)
        while reader.position < out:
            reader.read(min(next(messages), out - reader.position))
            last = reader.told[-1]
            goes_on = out - last <= lowest_ahead_to_go_on(last, settings, slow_start=slow_start)
            if len(reader.told) > tellings and goes_on:
                break
        assert len(reader.told) > tellings
        assert goes_on


@given(st.lists(st.integers(1, 100), min_size=1, max_size=12), st.booleans())
def test_a_parked_request_is_always_told_to_go_on(sizes: list[int], slow_start: bool) -> None:
    check_goes_on(*marks(256, 64, 64), sizes, slow_start=slow_start)


@given(
    st.integers(2, 300),
    st.integers(0, 300),
    st.integers(2, 300),
    st.lists(st.integers(1, 400), min_size=1, max_size=12),
    st.booleans(),
)
def test_a_parked_request_is_always_told_to_go_on_whatever_the_marks_are(
    high: int, low: int, first: int, sizes: list[int], slow_start: bool
) -> None:
    assume(low < high)
    check_goes_on(*marks(high, low, first), sizes, slow_start=slow_start)


@given(
    st.integers(0, 2000),
    st.just((256, 64, 64))
    | st.tuples(st.integers(2, 300), st.integers(1, 300), st.integers(2, 300)),
    st.booleans(),
)
@example(0, (256, 64, 64), True)
def test_a_parked_request_is_told_to_go_on_before_its_reader_has_nothing_left(
    position: int, high_low_first: tuple[int, int, int], slow_start: bool
) -> None:
    """From whatever was told last, where each token is a message."""
    assume(high_low_first[1] < high_low_first[0])
    configured, settings = marks(*high_low_first)
    out = position + ahead(position, settings, slow_start=slow_start)
    reader = Telling(configured)
    told = position
    while out - told > lowest_ahead_to_go_on(told, settings, slow_start=slow_start):
        reader.stream.tell(told)
        told = reader.stream.tell_at
        assert told < out


def test_the_service_tells_at_such_intervals_by_default() -> None:
    reader = Telling(ServiceSettings())
    for _ in range(300):
        reader.read(1)
    expected = [0]
    while expected[-1] < 300:
        expected.append(expected[-1] + min(64, 32 + expected[-1] // 2))
    assert reader.told == expected[:-1]
