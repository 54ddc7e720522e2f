import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine_core.pacing import (
    _MOST_VICTIMS,
    AdmissionRate,
    RecomputeBudget,
    StepCosts,
    victims,
)
from service.engine_core.settings import Said
from service.engine_core.stream_state import StreamState

spans = st.integers(0, 640).map(lambda ticks: ticks / 64)


@given(
    st.floats(0, 0.5),
    st.floats(0, 1),
    st.floats(0, 5),
    st.lists(st.tuples(spans, st.booleans(), st.booleans(), st.floats(0, 1)), max_size=40),
)
def test_no_more_is_ever_spent_on_recomputing_than_time_has_earned(
    share: float,
    in_peace: float,
    reserve_s: float,
    order: list[tuple[float, bool, bool, float]],
) -> None:
    budget, now = RecomputeBudget(share, in_peace, reserve_s), 50.0
    spent = earned = 0.0
    budget.pass_time(now, urgent=True, late=False)
    for span, urgent, late, part in order:
        now += span
        if not late:
            earned += span * (share if urgent else in_peace)
        budget.pass_time(now, urgent=urgent, late=late)
        assert budget.seconds <= reserve_s
        spends = budget.seconds * part
        budget.spend(spends)
        spent += spends
        assert budget.seconds >= 0
        assert spent <= reserve_s + earned + 1e-9


def test_the_budget_earns_less_while_places_are_needed_and_nothing_once_some_are_late() -> None:
    budget = RecomputeBudget(0.02, 0.2, 100.0)
    budget.spend(100.0)
    budget.pass_time(1000.0, urgent=True, late=False)
    assert budget.seconds == 0  # whatever was before the first look earns nothing
    budget.pass_time(1010.0, urgent=True, late=False)
    assert budget.seconds == pytest.approx(0.2)
    budget.pass_time(1020.0, urgent=False, late=False)
    assert budget.seconds == pytest.approx(2.2)
    budget.pass_time(1030.0, urgent=True, late=True)
    assert budget.seconds == pytest.approx(2.2)


def test_the_budget_begins_with_its_reserve_and_saves_no_more() -> None:
    budget = RecomputeBudget(0.5, 0.5, 2.0)
    assert budget.seconds == 2.0
    for now in (0.0, 1000.0):
        budget.pass_time(now, urgent=False, late=False)
    assert budget.seconds == 2.0


prefills = st.sampled_from([0, 0, 63, 64, 64]) | st.integers(0, 5000)


@given(st.lists(st.tuples(st.floats(0, 10), prefills), max_size=50))
def test_costs_stay_within_what_was_seen_and_are_never_below_zero(
    steps: list[tuple[float, int]],
) -> None:
    costs = StepCosts()
    seen = [costs.step_s] + [seconds for seconds, prefill in steps if prefill == 0]
    for seconds, prefill in steps:
        costs.observe(seconds, prefill)
        assert min(seen) * 0.999 <= costs.step_s <= max(seen) * 1.001
        assert 0 <= costs.prefill_token_s <= 10 / 64
        assert costs.first_token_s(10) <= costs.first_token_s(20)


def test_costs_become_those_of_the_steps_that_are_seen() -> None:
    costs = StepCosts()
    for _ in range(300):
        costs.observe(0.1, 0)
        costs.observe(0.1 + 1000 * 0.0002, 1000)
    assert costs.step_s == pytest.approx(0.1, rel=0.01)
    assert costs.prefill_token_s == pytest.approx(0.0002, rel=0.01)
    assert costs.first_token_s(500) == pytest.approx(0.2, rel=0.01)


def test_a_step_with_prefill_says_nothing_of_steps_without() -> None:
    costs = StepCosts()
    before = costs.step_s
    costs.observe(9.0, 1000)
    assert costs.step_s == before


@pytest.mark.parametrize("prefill_tokens", [1, 63])
def test_a_step_with_hardly_any_prefill_says_nothing(prefill_tokens: int) -> None:
    costs = StepCosts()
    before = (costs.step_s, costs.prefill_token_s)
    costs.observe(9.0, prefill_tokens)
    assert (costs.step_s, costs.prefill_token_s) == before


def looked(rate: AdmissionRate, seconds: float, per_second: int, start: float = 0.0) -> float:
    """Let so many be admitted in each second, looked at four times a second."""
    now = start
    for _ in range(int(seconds)):
        for _ in range(4):
            rate.pass_time(now)
            now += 0.25
        rate.count += per_second
    rate.pass_time(now)
    return now


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 500))
def test_a_queue_is_as_long_in_time_as_it_takes_at_the_rate_of_the_last_while(
    per_second: int, requests: int
) -> None:
    rate = AdmissionRate()
    looked(rate, 60, per_second)
    assert rate.seconds_for(requests) == pytest.approx(requests / per_second, rel=0.02)


def test_the_rate_follows_a_change_within_some_ten_seconds() -> None:
    rate = AdmissionRate()
    now = looked(rate, 60, 10)
    now = looked(rate, 10, 40, now)
    assert 4.0 > rate.seconds_for(100) > 2.5
    looked(rate, 60, 40, now)
    assert rate.seconds_for(100) == pytest.approx(2.5, rel=0.02)


def test_a_pause_is_forgotten_when_it_was_longer_than_is_looked_back() -> None:
    rate = AdmissionRate()
    now = looked(rate, 60, 10)
    rate.count = 200
    rate.pass_time(now + 20.0)
    assert rate.seconds_for(100) == pytest.approx(10.0)


def test_before_anything_was_admitted_no_queue_is_long() -> None:
    rate = AdmissionRate()
    assert rate.seconds_for(100) == 0.0
    rate.count = 50  # before the first look: nobody knows since when
    looked(rate, 30, 0)
    assert rate.seconds_for(100) == 0.0


@st.composite
def streams(draw: st.DrawFn, parked: bool | None = None) -> StreamState:
    rate = draw(st.sampled_from([None, 1.0, 4.0, 8.0]))
    state = StreamState("", Said(draw(st.sampled_from("abc")), reading_rate=rate), 0.0)
    state.first_token_at = draw(st.integers(0, 20).map(float))
    state.tokens = draw(st.integers(1, 200))
    state.context = state.tokens + draw(st.integers(0, 400))
    state.room = -(-state.context // 16) * 16
    state.parked = draw(st.booleans()) if parked is None else parked
    return state


running = st.lists(streams(), max_size=14).map(
    lambda states: [number(state, str(n)) for n, state in enumerate(states)]
)
wanted = st.integers(1, 3000)
moments = st.integers(0, 60).map(float)
budgets = st.integers(0, 40).map(lambda n: n / 64)
TOKEN_S = 1 / 4096
NEVER = 1e12


def number(state: StreamState, request_id: str) -> StreamState:
    state.request_id = request_id
    return state


over_shares = st.sets(st.sampled_from("ab"))


def able(states: list[StreamState], dry_after: float, over: set[str]) -> list[StreamState]:
    """Those that can be chosen, in the order in which they are: said in words in `victims`."""
    found = [s for s in states if s.parked or s.said.tenant in over]
    found += [s for s in states if s.said.reading_rate and s.runs_dry_at() > dry_after]
    unique = {s.request_id: s for s in found}.values()
    return sorted(unique, key=lambda s: (not s.parked, -s.runs_dry_at()))


@given(running, wanted, moments, budgets, over_shares)
def test_nobody_gives_up_its_room_unless_all_that_is_wanted_is_had(
    states: list[StreamState], tokens: int, dry_after: float, budget: float, over: set[str]
) -> None:
    chosen = victims(states, tokens, dry_after, budget, TOKEN_S, over)
    assert len({s.request_id for s in chosen}) == len(chosen)
    if chosen:
        assert sum(s.room for s in chosen) >= tokens
        assert sum(s.room for s in chosen[:-1]) < tokens  # and nobody more than needed


@given(running, wanted, moments, budgets, over_shares)
def test_nobody_within_its_share_gives_up_its_room_whose_reader_would_run_dry_too_early(
    states: list[StreamState], tokens: int, dry_after: float, budget: float, over: set[str]
) -> None:
    for state in victims(states, tokens, dry_after, budget, TOKEN_S, over):
        if not state.parked and state.said.tenant not in over:
            assert state.said.reading_rate
            assert state.runs_dry_at() > dry_after


@given(running, wanted, moments, budgets, over_shares)
def test_what_is_computed_again_stays_within_the_budget(
    states: list[StreamState], tokens: int, dry_after: float, budget: float, over: set[str]
) -> None:
    chosen = victims(states, tokens, dry_after, budget, TOKEN_S, over)
    assert sum(s.context for s in chosen if not s.parked) * TOKEN_S <= budget


@given(running, wanted, moments, budgets, over_shares)
def test_parked_ones_come_first_and_then_those_that_run_dry_last(
    states: list[StreamState], tokens: int, dry_after: float, budget: float, over: set[str]
) -> None:
    chosen = victims(states, tokens, dry_after, budget, TOKEN_S, over)
    order = [(not s.parked, -s.runs_dry_at()) for s in chosen]
    passed_over = [s for s in able(states, dry_after, over) if s not in chosen]
    assert order == sorted(order)
    if chosen and passed_over:
        best = passed_over[0]
        assert order[-1] <= (not best.parked, -best.runs_dry_at())


@given(running, wanted, moments, budgets, over_shares)
def test_room_that_can_be_had_is_had(
    states: list[StreamState], tokens: int, dry_after: float, budget: float, over: set[str]
) -> None:
    got, cost = 0, 0.0
    for state in able(states, dry_after, over):
        cost += 0.0 if state.parked else state.context * TOKEN_S
        if got >= tokens or cost > budget:
            break
        got += state.room
    assert bool(victims(states, tokens, dry_after, budget, TOKEN_S, over)) == (got >= tokens)


@given(st.lists(streams(parked=True), min_size=1, max_size=8), moments)
def test_parked_ones_cost_nothing_of_the_budget_and_may_run_dry(
    states: list[StreamState], dry_after: float
) -> None:
    tokens = sum(s.room for s in states)
    assert len(victims(states, tokens, dry_after, 0.0, TOKEN_S)) == len(states)


@pytest.mark.parametrize("parked", [0, 50])
def test_no_more_than_some_give_up_their_room_for_one_request_beside_all_that_are_parked(
    parked: int,
) -> None:
    states = [
        StreamState(str(n), Said("over"), 0.0, context=10, room=10, parked=n < parked)
        for n in range(100)
    ]
    most = parked + _MOST_VICTIMS
    assert len(victims(states, 10 * most, 0.0, 1.0, TOKEN_S, {"over"})) == most
    assert victims(states, 10 * most + 1, 0.0, 1.0, TOKEN_S, {"over"}) == []


def test_a_reader_that_declared_no_rate_keeps_its_room() -> None:
    state = StreamState("a", Said(), 0.0, tokens=500, room=500, first_token_at=1000.0)
    assert victims([state], 10, 0.0, 100.0, TOKEN_S) == []


def test_of_a_tenant_over_its_share_the_youngest_gives_up_its_room_whatever_rate_it_declared() -> (
    None
):
    states = [
        StreamState(str(n), Said(tenant), 0.0, context=100, room=112, first_token_at=float(n))
        for n, tenant in enumerate(("over", "over", "within"))
    ]
    assert victims(states, 112, NEVER, 100.0, TOKEN_S, {"over"}) == [states[1]]
    assert victims(states, 113, NEVER, 100.0, TOKEN_S, {"over"}) == [states[1], states[0]]
    assert victims(states, 225, NEVER, 100.0, TOKEN_S, {"over"}) == []
    assert victims(states, 112, NEVER, 99 * TOKEN_S, TOKEN_S, {"over"}) == []


def test_the_room_that_is_given_up_counts_and_not_the_tokens_in_it() -> None:
    shared = StreamState("a", Said(), 0.0, context=1000, room=32, parked=True)
    assert victims([shared], 33, 0.0, 0.0, TOKEN_S) == []
    assert victims([shared], 32, 0.0, 0.0, TOKEN_S) == [shared]
