"""Who waits for its reader gives up its blocks, and its place, to who does not."""

import pytest

from tests.engine_core.test_scheduler_parking import park
from tests.engine_core.virtual import BLOCK, engine, ids

pytestmark = [pytest.mark.engine, pytest.mark.timeout(60)]


@pytest.mark.parametrize("runner", [1, 2])
@pytest.mark.parametrize("two_in_flight", [True, False])
def test_who_waits_for_its_reader_gives_its_room_to_who_does_not_and_goes_on_exactly(
    two_in_flight: bool, runner: int
) -> None:
    parked = list(ids("parked", 8))
    # 24 blocks of KV cache; a parked request has three of them, one of those that come ten.
    with engine(kv_tokens=25 * BLOCK, two_in_flight=two_in_flight, runner=runner) as made:
        park(made, parked)
        active = list(ids("active", 4))
        for name in active:
            made.ask(name, 140)
        for _ in made.read(*active):
            pass

        made.check_exact(*active)
        report = made.report
        assert report["evicted_parked"] >= 5
        # Two of those that run fit together: that they are preempted too is no fault.
        assert report["parked"] + report["parked_away"] == len(parked)
        made.rest()
        assert not made.has_work

        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_as_long_as_somebody_is_parked_nobody_who_runs_is_preempted() -> None:
    with engine(kv_tokens=25 * BLOCK) as made:
        park(made, list(ids("parked", 4)))
        made.ask("a", 150)
        made.ask("b", 150)
        for _ in made.read("a", "b"):
            pass
        made.check_exact("a", "b")
        report = made.report
        assert report["preemptions"] == report["evicted_parked"] > 0


def test_one_that_was_parked_and_evicted_sleeps_until_its_reader_comes() -> None:
    with engine(kv_tokens=25 * BLOCK) as made:
        park(made, list(ids("parked", 8)))
        made.ask("a", 30, prompt_tokens=200)
        made.rest()
        made.check_exact("a")
        assert made.report["parked_away"] > 0
        assert made.free_blocks > 0, "there is room, but nobody reads"
        assert not made.has_work


def test_a_long_prompt_does_not_wait_behind_many_small_ones_that_wait_for_readers() -> None:
    with engine(kv_tokens=61 * BLOCK, places=32) as made:
        park(made, list(ids("parked", 20)))
        assert made.free_blocks == 0

        made.ask("long", 20, prompt_tokens=500)
        made.until_ended("long")

        made.check_exact("long")


def test_a_request_that_needs_nearly_all_of_the_cache_gets_what_the_parked_ones_have() -> None:
    with engine(kv_tokens=13 * BLOCK) as made:
        park(made, list(ids("parked", 4)))  # all 12 blocks, none of which is quite full
        made.ask("large", 10, prompt_tokens=170)
        made.until_ended("large")
        made.check_exact("large")


def test_who_waits_for_its_reader_does_not_count_as_active() -> None:
    with engine(active=2, places=6) as made:
        for name in ids("r", 8):
            made.ask(name, 60)
        seen = 0
        for _ in range(500):
            if not made.has_work:
                break
            made.step()
            active = set(made.running()) - made.parked()
            seen = max(seen, len(active))
            assert len(active) <= 2
            assert len(made.running()) <= 6
            assert made.scheduler.max_num_active_reqs <= 6
        assert seen == 2


def test_where_all_places_are_taken_by_parked_ones_they_give_way_for_one_that_waits() -> None:
    with engine(active=2, places=6) as made:
        for name in ids("r", 8):
            made.ask(name, 60)
        for _ in range(500):
            if not made.has_work:
                break
            made.step()
        assert all(made.asked[name].tokens for name in made.asked)
        assert made.report["parked"] + made.report["parked_away"] == 8
        assert made.report["evicted_parked"] == made.report["preemptions"] == 2
        made.read_all()
        made.check_exact()
        made.check_nothing_left()


def test_places_are_given_back_when_nobody_waits_for_a_reader_any_more() -> None:
    with engine(active=2, places=6) as made:
        names = list(ids("r", 8))
        for name in names:
            made.ask(name, 60)
        made.read_all()
        made.check_exact()
        made.check_nothing_left()
