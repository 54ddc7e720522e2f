"""Who of those that wait is next, and who need not wait any longer."""

from typing import Any

import pytest

from tests.engine_core.virtual import STEP_S, Engine, engine, ids

pytestmark = [pytest.mark.engine, pytest.mark.timeout(60)]

GIVEN_UP = "tokenstream: deadline"


def fill(made: Engine, places: int, length: int = 40, **said: Any) -> None:
    """Take all places."""
    for number, name in enumerate(ids("first", places)):
        made.ask(name, length + 3 * number, **said)  # they do not end together
    made.step()
    assert len(made.running()) == places


def order_of_first_tokens(made: Engine, *, besides: str = "first") -> list[str]:
    """Of those that waited."""
    waited = {i: a for i, a in made.asked.items() if not i.startswith(besides)}
    assert all(a.first_token_at is not None for a in waited.values())
    return sorted(waited, key=lambda i: waited[i].first_token_at or 0.0)


# -- first come, first served --------------------------------------------------------------------


@pytest.mark.parametrize("apart_s", [0.0, 0.001])
def test_requests_that_are_equal_are_served_as_they_came(apart_s: float) -> None:
    with engine(places=1) as made:
        fill(made, 1)
        names = list(ids("r", 10))
        for name in names:
            made.ask(name, 3)
            made.clock.wait_until(made.clock.now() + apart_s)
        made.read_all()
        made.check_exact()
        assert order_of_first_tokens(made) == names


# -- priority classes ----------------------------------------------------------------------------


def test_a_request_of_a_higher_class_that_comes_last_is_next() -> None:
    with engine(places=1) as made:
        fill(made, 1)
        for number, priority in enumerate((-1, 0, -1, 0, 1)):
            made.ask(f"{number} of {priority}", 3, priority=priority)
            made.clock.wait_until(made.clock.now() + STEP_S)
        made.read_all()
        made.check_exact()
        assert order_of_first_tokens(made) == ["4 of 1", "1 of 0", "3 of 0", "0 of -1", "2 of -1"]


# -- tenants -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 5.0], ids=["no rate declared", "a rate declared"])
def test_next_to_a_tenant_that_floods_the_others_request_is_next(rate: float | None) -> None:
    said: dict[str, Any] = {} if rate is None else {"reading_rate": rate}
    with engine(places=4) as made:
        fill(made, 4, tenant="floods", **said)
        for name in ids("flood", 30):
            made.ask(name, 40, prompt_tokens=30, tenant="floods", **said)
            made.clock.wait_until(made.clock.now() + 0.001)
        made.ask("quiet", 3, prompt_tokens=30, tenant="quiet", **said)
        made.read_all()
        made.check_exact()
        assert order_of_first_tokens(made)[0] == "quiet"


def test_two_tenants_that_both_have_work_are_served_in_turn() -> None:
    with engine(places=1) as made:
        fill(made, 1, tenant="a")
        for name in ids("a", 12):
            made.ask(name, 10, tenant="a")
        for name in ids("b", 6):
            made.ask(name, 10, tenant="b")
        made.read_all()
        made.check_exact()
        served = "".join(name[0] for name in order_of_first_tokens(made))
        assert served[:12].count("b") == 6
        assert "aaa" not in served[:11]


def test_a_tenant_of_twice_the_weight_has_twice_as_much() -> None:
    with engine(places=1, weights={"a": 2.0}) as made:
        fill(made, 1, tenant="a")
        for tenant in "ab":
            for name in ids(tenant, 15):
                made.ask(name, 10, tenant=tenant)
        made.read_all()
        made.check_exact()
        served = "".join(name[0] for name in order_of_first_tokens(made))
        assert 9 <= served[:15].count("a") <= 11


# -- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("two_in_flight", [True, False])
def test_a_deadline_that_cannot_be_met_ends_the_waiting_request_without_prefill(
    two_in_flight: bool,
) -> None:
    with engine(places=1, two_in_flight=two_in_flight) as made:
        fill(made, 1, length=100)
        deadline = made.clock.now() + 20 * STEP_S
        asked = made.ask("hopeless", 10, prompt_tokens=100, deadline=deadline)
        made.ask("patient", 10)

        made.until_ended("hopeless")

        assert asked.end.finish_reason.name == "ABORT"
        assert asked.end.stop_reason == GIVEN_UP
        assert asked.tokens == []
        assert made.computed["hopeless"] == 0
        assert made.report["given_up"] == 1
        assert asked.ended_at is not None
        # While there was hope it waited.
        assert deadline - 5 * STEP_S < asked.ended_at <= deadline + 2 * STEP_S
        del made.asked["hopeless"]
        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_a_deadline_that_can_be_met_is_met() -> None:
    with engine(places=1) as made:
        fill(made, 1, length=20)
        made.ask("in time", 10, deadline=made.clock.now() + 30 * STEP_S)
        made.read_all()
        made.check_exact()
        made.check_nothing_left()
        assert made.report["given_up"] == 0


def test_of_two_that_wait_the_one_with_the_earlier_deadline_is_next() -> None:
    with engine(places=1) as made:
        fill(made, 1, length=20)
        now = made.clock.now()
        made.ask("later", 10, deadline=now + 80 * STEP_S)
        made.clock.wait_until(now + STEP_S)
        made.ask("sooner", 10, deadline=now + 60 * STEP_S)
        made.read_all()
        made.check_exact()
        assert order_of_first_tokens(made) == ["sooner", "later"]


def test_a_deadline_that_has_passed_when_the_request_comes_ends_it_though_nothing_else_runs() -> (
    None
):
    with engine() as made:
        made.clock.wait_until(1.0)
        asked = made.ask("hopeless", 10, deadline=0.9)
        made.until_ended("hopeless")
        assert asked.end.stop_reason == GIVEN_UP
        assert made.computed["hopeless"] == 0
        made.check_nothing_left()


def test_a_deadline_that_passes_once_a_request_runs_does_not_end_it() -> None:
    with engine() as made:
        made.ask("a", 60, deadline=5 * STEP_S)
        made.read_all()
        made.check_exact()
        assert made.report["given_up"] == 0


def test_one_that_was_admitted_and_evicted_is_not_given_up() -> None:
    with engine(kv_tokens=25 * 16) as made:
        for name in ids("r", 8):
            made.ask(name, 60, deadline=20 * STEP_S)
        made.rest()
        made.ask("a", 20, prompt_tokens=200)
        made.rest()
        assert made.report["parked_away"] > 0
        made.clock.wait_until(made.clock.now() + 1.0)
        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_of_two_hopeless_ones_of_which_one_is_aborted_each_has_at_most_one_end() -> None:
    with engine(places=1) as made:
        fill(made, 1, length=100)
        for name in ("stays", "leaves"):
            made.ask(name, 10, deadline=made.clock.now() + 10 * STEP_S)
        made.step()
        made.abort("leaves")
        made.until_ended("stays")
        assert made.asked["leaves"].end is None
        assert made.report["given_up"] == 1
        del made.asked["stays"], made.asked["leaves"]
        made.read_all()
        made.check_nothing_left()


def test_with_deadlines_off_nobody_is_given_up() -> None:
    with engine(places=1, deadlines=False) as made:
        fill(made, 1, length=60)
        made.ask("late", 10, deadline=made.clock.now() + 10 * STEP_S)
        made.read_all()
        made.check_exact()
