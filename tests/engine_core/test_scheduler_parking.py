"""Who is ahead of its reader waits for it, gives its room up first, and goes on exactly."""

import pytest

from tests.engine_core.virtual import BLOCK, STEP_S, Engine, engine, ids

pytestmark = [pytest.mark.engine, pytest.mark.timeout(60)]

HIGH, LOW = 32, 8  # the marks of `engine`
SILENCE_S = 0.5


def park(made: Engine, names: list[str], *, prompt_tokens: int = 8, length: int = 100) -> None:
    """Ask for these and step until all of them wait for their readers."""
    for name in names:
        made.ask(name, length, prompt_tokens=prompt_tokens)
    made.rest()
    assert made.parked() == set(names)


# -- flow control --------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", [1, 2])
@pytest.mark.parametrize("two_in_flight", [True, False])
def test_a_request_whose_reader_takes_nothing_stops_at_the_high_mark(
    two_in_flight: bool, runner: int
) -> None:
    with engine(two_in_flight=two_in_flight, runner=runner) as made:
        asked = made.ask("a", 100)

        made.rest()

        # One more of each batch that was on its way, at most.
        assert HIGH <= len(asked.tokens) <= HIGH + (1 if two_in_flight else 0)
        assert (made.report["parked"], made.report["parkings"]) == (1, 1)


def test_one_that_is_parked_stays_so_above_the_low_mark_and_goes_on_at_it() -> None:
    with engine() as made:
        asked = made.ask("a", 100)
        made.rest()
        stopped_at = len(asked.tokens)

        made.tell(a=stopped_at - LOW - 1)
        assert not made.has_work

        made.tell(a=stopped_at - LOW)
        assert made.has_work
        assert made.report["parked"] == 0
        made.rest()
        assert len(asked.tokens) == stopped_at - LOW + HIGH
        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_a_reader_that_keeps_up_is_never_waited_for() -> None:
    with engine() as made:
        asked = made.ask("a", 200)
        made.read_all()
        assert len(asked.tokens) == 200
        made.check_exact()
        assert made.report["parkings"] == 0


def test_a_reader_that_begins_again_further_back_is_waited_for_from_there() -> None:
    with engine() as made:
        asked = made.ask("a", 200)
        while len(asked.tokens) < 60:
            made.tell(a=len(asked.tokens))
            made.step()

        made.tell(a=0)
        made.rest()

        assert len(asked.tokens) <= 62
        assert made.parked() == {"a"}
        made.read_all()
        made.check_exact()


def test_a_prefill_in_chunks_is_not_stopped_on_its_way() -> None:
    with engine(batched_tokens=16, high_mark=2, low_mark=1) as made:
        park(made, ["a"], prompt_tokens=8)
        made.ask("b", 50, prompt_tokens=100)
        made.rest()
        assert [len(made.asked[i].tokens) for i in "ab"] == [2, 2]
        made.read_all()
        made.check_exact()


def test_what_is_told_of_requests_that_ended_or_never_were_changes_nothing() -> None:
    with engine() as made:
        made.ask("a", 10)
        made.rest()
        made.tell(a=3, b=7)
        made.check_exact()
        made.check_nothing_left()


def test_with_flow_control_off_nobody_is_parked() -> None:
    with engine(flow_control=False) as made:
        made.ask("a", 100)
        made.rest()
        made.check_exact()
        assert made.report["parkings"] == 0


# -- sleep ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("two_in_flight", [True, False])
def test_an_engine_of_which_all_wait_for_readers_sleeps_until_one_reads(
    two_in_flight: bool,
) -> None:
    with engine(two_in_flight=two_in_flight) as made:
        park(made, ["a", "b", "c"])
        assert not made.has_work

        made.tell(b=HIGH)

        assert made.has_work
        made.rest()
        assert len(made.asked["a"].tokens) <= HIGH + 1
        assert len(made.asked["b"].tokens) >= 2 * HIGH


def test_an_engine_of_which_all_wait_for_readers_wakes_for_a_new_request() -> None:
    with engine() as made:
        park(made, ["a"])
        made.ask("b", 10)
        assert made.has_work
        made.rest()
        made.check_exact("b")
        assert made.parked() == {"a"}


def test_an_engine_that_sleeps_has_told_its_workers_who_has_ended() -> None:
    with engine() as made:
        park(made, ["a", "b"])
        made.abort("a")
        assert made.has_work
        made.rest()
        assert not made.scheduler.has_finished_requests()


# -- whom nobody tells of readers ----------------------------------------------------------------


def test_where_the_service_was_never_heard_nobody_is_parked() -> None:
    with engine() as made:
        for name in ids("r", 3):
            made.ask(name, 100)
        made.rest(heard=False)
        made.check_exact()
        assert made.report["parkings"] == 0


def test_when_the_service_falls_silent_all_run_again() -> None:
    with engine(silence_s=SILENCE_S, kv_tokens=25 * BLOCK) as made:
        park(made, list(ids("parked", 8)))
        made.ask("a", 30, prompt_tokens=200)
        made.rest()
        assert made.report["parked"] > 0
        assert made.report["parked_away"] > 0
        silent_since = made.clock.now()
        made.tell()

        made.clock.wait_until(silent_since + SILENCE_S - STEP_S)
        assert not made.has_work, "it could still be heard"
        made.clock.wait_until(silent_since + SILENCE_S + STEP_S)
        assert made.has_work
        made.rest(heard=False)

        made.check_exact()
        made.check_nothing_left()


def test_when_the_service_is_heard_again_readers_are_waited_for_again() -> None:
    with engine(silence_s=SILENCE_S) as made:
        park(made, ["a"], length=1000)
        made.clock.wait_until(made.clock.now() + 2 * SILENCE_S)
        for _ in range(100):
            assert made.has_work
            made.step(heard=False)
        ahead = len(made.asked["a"].tokens)
        assert ahead > 3 * HIGH - 5

        made.rest()

        assert made.parked() == {"a"}
        assert len(made.asked["a"].tokens) <= ahead + HIGH + 2


# -- ends ----------------------------------------------------------------------------------------


def test_of_requests_aborted_in_whatever_state_nothing_is_left() -> None:
    with engine(kv_tokens=25 * BLOCK, places=9) as made:
        park(made, list(ids("parked", 8)))
        made.ask("runs", 60, prompt_tokens=100)
        made.until(lambda: len(made.asked["runs"].tokens) > 3)
        for name in ids("waits", 3):
            made.ask(name, 20, prompt_tokens=350)
        made.step()
        assert made.report["parked"] > 0
        assert made.report["parked_away"] > 0
        assert made.asked["waits0"].first_token_at is None

        made.abort(*made.asked)

        made.check_nothing_left()


@pytest.mark.parametrize("state", ["parked", "parked and evicted", "waiting"])
def test_one_that_is_aborted_leaves_the_others_as_they_were(state: str) -> None:
    with engine(kv_tokens=25 * BLOCK, places=9) as made:
        parked = list(ids("parked", 8))
        park(made, parked)
        made.ask("a", 60, prompt_tokens=100)
        made.until(lambda: len(made.asked["a"].tokens) > 3)
        made.ask("waits", 20, prompt_tokens=350)
        made.step()
        victim = {
            "parked": min(made.parked()),
            "parked and evicted": min(set(parked) - made.parked()),
            "waiting": "waits",
        }[state]
        counts = made.report["parked"], made.report["parked_away"]

        made.abort(victim)

        changed = made.report["parked"] - counts[0], made.report["parked_away"] - counts[1]
        assert (
            changed
            == {
                "parked": (-1, 0),
                "parked and evicted": (0, -1),
                "waiting": (0, 0),
            }[state]
        )
        assert victim not in made.scheduler._states
        assert made.scheduler.max_num_active_reqs <= 9
        del made.asked[victim]
        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_the_account_of_a_request_tells_where_all_its_time_went() -> None:
    with engine(kv_tokens=25 * BLOCK, active=4, silence_s=60.0) as made:
        parked = list(ids("r", 8))
        for name in parked:
            made.ask(name, 60)
            made.clock.wait_until(made.clock.now() + 0.001)
        made.rest()
        made.clock.wait_until(made.clock.now() + 5.0)
        made.ask("late", 60, prompt_tokens=300)
        made.read_all()

        made.check_exact()
        for name, asked in made.asked.items():
            account = dict(asked.end.kv_transfer_params["tokenstream"])
            preemptions = account.pop("preemptions")
            assert min(account.values()) >= 0, name
            assert asked.ended_at is not None
            assert asked.first_token_at is not None
            assert sum(account.values()) == pytest.approx(asked.ended_at - asked.added_at)
            to_first = account["queued_s"] + account["prefill_s"]
            # The scheduler takes notice of a first token with the next step.
            assert to_first == pytest.approx(asked.first_token_at - asked.added_at, abs=2 * STEP_S)
            assert preemptions >= 0
        of = {i: a.end.kv_transfer_params["tokenstream"] for i, a in made.asked.items()}
        assert of["r7"]["queued_s"] > 10 * STEP_S, "it was not among the first"
        assert of["r0"]["queued_s"] < STEP_S
        assert all(of[i]["parked_s"] > 5.0 for i in parked)
        assert of["late"]["parked_s"] == 0
        assert sum(a["preemptions"] for a in of.values()) == made.report["preemptions"] > 0


def test_the_account_of_a_request_of_one_token_adds_up_too() -> None:
    with engine() as made:
        asked = made.ask("a", 1, prompt_tokens=100)
        made.rest()
        account = dict(asked.end.kv_transfer_params["tokenstream"])
        assert account.pop("preemptions") == 0
        assert asked.ended_at is not None
        assert sum(account.values()) == pytest.approx(asked.ended_at - asked.added_at)
        assert sum(account.values()) >= STEP_S
