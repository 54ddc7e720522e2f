"""What goes wrong in a decision, pauses and the engine's end hang nothing and cost no token."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.engine.core import EngineCoreProc, EngineShutdownState

from tests.engine_core.virtual import BLOCK, Engine, engine, ids

pytestmark = [pytest.mark.engine, pytest.mark.timeout(60)]

HIGH = 32  # the mark of `engine`
LONG = 5 * HIGH


class _Raises:
    """In the place of a function: raises when its turn has come."""

    def __init__(self, instead_of: Callable[..., Any], when: Callable[[int], bool]) -> None:
        self._function = instead_of
        self._when = when
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self._when(self.calls):
            raise ZeroDivisionError("a mistake of ours")
        return self._function(*args, **kwargs)


WHEN: dict[str, Callable[[int], bool]] = {
    "once": lambda call: call == 3,
    "now and then": lambda call: call % 7 == 3,
    "from now on": lambda call: True,
}


def stand_in_the_way(made: Engine) -> None:
    """Have requests in all states: parked, evicted from there, evicted by pacing, waiting."""

    def let_come(names: Sequence[str], steps: int, *read: str, **said: Any) -> None:
        for name in names:
            made.ask(name, LONG, prompt_tokens=8, **said)
            made.clock.wait_until(made.clock.now() + 0.001)
        for _ in range(steps):
            made.tell(**{i: len(made.asked[i].tokens) for i in read})
            made.step()

    paced, new = ids("paced", 4), ids("new", 10)
    let_come(ids("parked", 6), 2 * HIGH)
    let_come(paced, HIGH, *paced, reading_rate=2.0)
    # So many come that readers who have enough give their room up.
    let_come(new, 3 * HIGH, *paced, *new, reading_rate=2.0, tenant="another")
    states = made.scheduler._states
    assert made.report["parked_away"] > 0
    assert any(s.evicted and not s.parked for s in states.values())
    assert len(made.scheduler.waiting) > made.scheduler.waiting.held


def replace(owner: Any, name: str, when: Callable[[int], bool]) -> _Raises:
    function = _Raises(getattr(owner, name), when)
    setattr(owner, name, function)
    return function


# Where a decision is taken, and whether every step comes there.
DECISIONS: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "the whole decision": (lambda made: made.scheduler, "_decide"),
    "who is parked": (lambda made: made.scheduler._parking, "look"),
    "who makes room": (lambda made: made.scheduler._room, "who_makes_room"),
    "who is given up": (lambda made: made.scheduler, "_give_up_the_hopeless"),
    "the budget": (lambda made: made.scheduler._room.budget, "pass_time"),
    "the rate of admissions": (lambda made: made.scheduler._admissions, "pass_time"),
    "the look ahead": (lambda made: made.scheduler.waiting, "upcoming"),
    "the shares, when running ones are charged": (lambda made: made.scheduler, "_charge_running"),
}


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("decision", DECISIONS)
def test_a_decision_that_raises_is_counted_and_costs_no_token(decision: str, when: str) -> None:
    with engine(kv_tokens=41 * BLOCK, places=32, spare_s=1.0, wait_s=0.0) as made:
        stand_in_the_way(made)
        owner, name = DECISIONS[decision]

        mistake = replace(owner(made), name, WHEN[when])
        made.read_all()

        assert mistake.calls > 0
        assert made.report["failures"] >= 1
        made.check_exact()
        made.check_nothing_left()


# Bookkeeping that is not part of `_decide`, but of ours, and called in a step.
AROUND: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "charging a tenant": (lambda made: made.scheduler._shares, "charge"),
    "comparing tenants": (lambda made: made.scheduler._shares, "counter"),
    "observing a step": (lambda made: made.scheduler._costs, "observe"),
    "a request's account": (lambda made: made.scheduler, "_charge"),
}


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("where", AROUND)
def test_bookkeeping_that_raises_is_counted_and_costs_no_token(where: str, when: str) -> None:
    with engine(kv_tokens=41 * BLOCK, places=32, spare_s=1.0, wait_s=0.0) as made:
        stand_in_the_way(made)
        owner, name = AROUND[where]
        mistake = replace(owner(made), name, WHEN[when])

        made.read_all()

        assert mistake.calls > 0
        assert made.report["failures"] >= 1
        made.check_exact()


def test_a_decision_that_raises_lets_all_run_that_were_parked() -> None:
    with engine(kv_tokens=25 * BLOCK) as made:
        for name in ids("parked", 8):
            made.ask(name, 60)
        made.rest()
        made.ask("a", 30, prompt_tokens=200)
        made.rest()
        assert made.report["parked_away"] > 0

        replace(made.scheduler, "_decide", lambda call: True)
        made.ask("b", 1)
        made.rest(heard=False)

        made.check_exact()
        made.check_nothing_left()


def test_decisions_that_fail_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with engine() as made:
        replace(made.scheduler, "_decide", lambda call: True)
        made.ask("a", 20)
        made.rest()
        assert made.report["failures"] >= 20
        made.check_exact()
    assert sum("decision failed" in record.getMessage() for record in caplog.records) == 1


# -- pauses and ends -----------------------------------------------------------------------------


def all_wait_for_their_readers(made: Engine) -> list[str]:
    names = list(ids("parked", 3))
    for name in names:
        made.ask(name, LONG)
    made.rest()
    assert made.report["parked"] == 3
    return names


def test_a_pause_that_waits_for_what_runs_finishes_what_waits_for_its_reader() -> None:
    with engine() as made:
        all_wait_for_their_readers(made)

        made.scheduler.set_pause_state(PauseState.PAUSED_NEW)
        made.rest()

        made.check_exact()
        made.ask("new", 5)
        assert not made.has_work
        made.scheduler.set_pause_state(PauseState.UNPAUSED)
        made.rest()
        made.check_exact()
        made.check_nothing_left()


def test_a_pause_that_stops_all_lets_go_on_afterwards() -> None:
    with engine() as made:
        names = all_wait_for_their_readers(made)
        made.ask("runs", LONG)
        made.step()

        made.scheduler.set_pause_state(PauseState.PAUSED_ALL)
        made.rest()
        counts = {i: len(a.tokens) for i, a in made.asked.items()}
        assert all(counts[i] < LONG for i in [*names, "runs"])

        made.scheduler.set_pause_state(PauseState.UNPAUSED)
        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_after_a_pause_those_that_were_evicted_go_on() -> None:
    with engine(kv_tokens=25 * BLOCK) as made:
        for name in ids("parked", 8):
            made.ask(name, 60)
        made.rest()
        made.ask("a", 30, prompt_tokens=200)
        made.rest()
        assert made.report["parked_away"] > 0

        made.scheduler.set_pause_state(PauseState.PAUSED_NEW)
        made.rest()
        made.scheduler.set_pause_state(PauseState.UNPAUSED)
        made.read_all()

        made.check_exact()
        made.check_nothing_left()


def test_a_reset_of_the_prefix_cache_preempts_those_that_are_parked_and_they_go_on_exactly() -> (
    None
):
    with engine(more={"enable_prefix_caching": True}) as made:
        names = all_wait_for_their_readers(made)

        assert made.scheduler.reset_prefix_cache(reset_running_requests=True)

        assert made.report["parked_away"] == len(names)
        made.rest()
        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_an_engine_that_ends_once_its_work_is_done_finishes_what_waits_for_its_reader() -> None:
    with engine() as made:
        all_wait_for_their_readers(made)
        process = SimpleNamespace(
            shutdown_state=EngineShutdownState.REQUESTED,
            vllm_config=SimpleNamespace(shutdown_timeout=60),
            scheduler=made.scheduler,
            has_work=lambda: made.has_work,
        )
        made.scheduler.is_ending = lambda: True  # as the control channel asks the process
        for _ in range(4 * LONG):
            # vLLM's own loop: false is the end of the process.
            if not EngineCoreProc._handle_shutdown(process):
                break
            made.step()
        made.check_exact()


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"more": {"scheduling_policy": "priority"}}, "scheduling_policy 'priority'"),
        ({"more": {"runner": "pooling", "convert": "embed"}}, "generate text"),
        ({"no_such_setting": 1}, "no setting 'no_such_setting'"),
        ({"high_mark": 8, "low_mark": 8}, "low_mark"),
        ({"weights": {"a": 0.0}}, "weight"),
    ],
    ids=["priorities", "pooling", "unknown setting", "marks", "weights"],
)
def test_what_is_not_supported_is_refused_by_name_at_the_start(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=f"tokenstream: .*{named}"), engine(**options):
        raise AssertionError("it started")
