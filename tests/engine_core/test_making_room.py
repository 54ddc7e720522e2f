from dataclasses import dataclass, replace
from typing import Any

import pytest

from service.engine_core.making_room import Cache, RoomMaker
from service.engine_core.pacing import StepCosts
from service.engine_core.parking import Parking
from service.engine_core.settings import Settings
from tests.engine_core.test_parking import Runs
from tests.engine_core.waiters import Waiter, WaitingRoom

SETTINGS = Settings(spare_s=10.0, wait_s=0.5, return_s=4.0, headroom=0.1, recompute_reserve_s=1.0)
FULL = Cache(free_blocks=2, blocks=100, kept_blocks=2, block_tokens=16, free_places=9)


@dataclass
class Full:
    """A full cache, some that run and some that wait."""

    settings: Settings = SETTINGS

    def __post_init__(self) -> None:
        self.room = WaitingRoom(self.settings)
        self.running: list[Runs] = []
        self.parking: Parking[Runs] = Parking(
            self.room.states,
            self.room.queue,  # type: ignore[arg-type]
            self.settings,
            1,
        )
        self.costs = StepCosts()
        self.maker: RoomMaker[Runs] = RoomMaker(
            self.room.states,
            self.parking,
            self.room.queue,  # type: ignore[arg-type]
            self.room.shares,
            self.costs,
            self.settings,
        )

    def runs(self, text_s: float = 0.0, *, parked: bool = False, **said: Any) -> Runs:
        """One whose reader has text for so long, in 320 tokens of the cache."""
        waiter = self.room.comes(**said)
        self.room.step()
        self.room.queue.pop_request()
        state = self.room.states[waiter.request_id]
        tokens = int(4.0 * text_s) + 1
        state.first_token_at = self.room.now - 0.25  # it reads four a second
        request = Runs(waiter.request_id, num_output_tokens=tokens, num_computed_tokens=320)
        self.running.append(request)
        if parked:
            self.parking.park(request, state, self.room.now)
        return request

    def waits(self, **said: Any) -> Waiter:
        waiter = self.room.comes(**said)
        self.room.step(1.0)
        return waiter

    def makes_room(self, cache: Cache = FULL) -> list[str]:
        chosen = self.maker.who_makes_room(self.running, cache, self.room.now)
        return [state.request_id for state in chosen]


@pytest.fixture
def full() -> Full:
    return Full()


def test_where_there_is_room_nobody_has_to_make_it(full: Full) -> None:
    full.runs(60.0)
    full.waits()
    assert full.makes_room(replace(FULL, free_blocks=9)) == []
    assert full.makes_room(replace(FULL, free_blocks=8)) != []


def test_for_a_first_token_the_reader_with_most_text_gives_way(full: Full) -> None:
    full.runs(30.0)
    most = full.runs(60.0)
    full.waits()
    assert full.makes_room() == [most.request_id]


def test_a_reader_that_has_not_enough_to_spare_keeps_its_place(full: Full) -> None:
    full.runs(11.0)  # the one that waits is dry now, and a second has passed
    full.waits()
    assert full.makes_room() == []


def test_nobody_makes_room_for_one_that_has_only_just_come(full: Full) -> None:
    full.runs(60.0)
    full.room.comes()
    full.room.step(0.4)
    assert full.makes_room() == []


def test_a_parked_one_gives_way_first_and_costs_nothing(full: Full) -> None:
    full.runs(60.0)
    parked = full.runs(5.0, parked=True)
    full.waits()
    before = full.maker.budget.seconds
    assert full.makes_room() == [parked.request_id]
    assert full.maker.budget.seconds == before


def test_what_is_computed_again_is_paid_for_and_nobody_is_evicted_on_credit(full: Full) -> None:
    full.costs.prefill_token_s = 0.002
    for _ in range(3):
        full.runs(60.0)
    for _ in range(3):
        full.room.comes(num_tokens=300)
    full.room.step(1.0)
    assert len(full.makes_room()) == 1
    assert full.maker.budget.seconds == pytest.approx(1.0 - 320 * 0.002)


def test_one_that_is_lost_at_its_deadline_is_paid_from_a_budget_of_its_own(full: Full) -> None:
    full.runs(60.0)
    full.waits(deadline=full.room.now + 1.5)
    assert len(full.makes_room()) == 1
    assert full.maker.budget.seconds == 1.0
    assert full.maker.deadline_budget.seconds < 1.0


def test_an_evicted_one_whose_reader_has_time_evicts_nobody(full: Full) -> None:
    full.runs(90.0)
    away = full.waits()
    full.room.queue.pop_request()
    full.room.comes_back(away, tokens=80, first_token_at=full.room.now)
    full.room.step()
    assert full.makes_room() == []
    full.room.step(17.0)
    assert len(full.makes_room()) == 1


def test_for_a_place_alone_a_parked_one_gives_way_and_no_other(full: Full) -> None:
    cache = replace(FULL, free_blocks=50, free_places=0)
    full.runs(90.0)
    full.waits()
    assert full.makes_room(cache) == []
    parked = full.runs(5.0, parked=True)
    full.runs(5.0, parked=True)
    assert full.makes_room(cache) == [parked.request_id]


def test_room_for_more_than_one_group_of_layers_and_for_drafts_is_reckoned_with(
    full: Full,
) -> None:
    full.runs(60.0)
    full.waits()  # 101 tokens are seven blocks
    cache = replace(FULL, kept_blocks=0, free_blocks=14, groups=2)
    assert full.makes_room(cache) == []
    assert full.makes_room(replace(cache, lookahead_tokens=12)) != []


def test_with_pacing_off_only_parked_ones_give_way() -> None:
    full = Full(replace(SETTINGS, pacing=False))
    full.runs(90.0)
    full.waits()
    assert full.makes_room() == []
    parked = full.runs(1.0, parked=True)
    assert full.makes_room() == [parked.request_id]


def test_a_tenant_over_its_share_gives_way_to_another_however_its_readers_are(full: Full) -> None:
    greedy = full.runs(0.0, tenant="greedy", reading_rate=None)
    full.waits(tenant="modest")
    full.room.shares.charge("greedy", 100_000, 0)
    full.room.shares.look_at({"greedy": 1600, "modest": 0})
    assert full.makes_room() == [greedy.request_id]
    assert full.maker.budget.seconds == 1.0  # which pacing needs


def test_a_tenants_lateness_does_not_take_from_others_what_fairness_may_cost(full: Full) -> None:
    full.maker.fair_budget.spend(1.0)
    full.maker.pass_time(full.room.now)
    full.waits(tenant="greedy")
    full.room.step(20.0)
    full.maker.pass_time(full.room.now)
    assert full.room.queue.has_late
    assert full.maker.fair_budget.seconds > 0.5


def test_nothing_is_earned_while_requests_are_late_and_most_while_nobody_waits(full: Full) -> None:
    full.maker.budget.spend(1.0)
    full.maker.pass_time(full.room.now)
    full.room.step(2.0)
    full.maker.pass_time(full.room.now)
    in_peace = full.maker.budget.seconds
    assert in_peace == pytest.approx(2.0 * SETTINGS.recompute_share_in_peace)
    full.waits()
    full.maker.pass_time(full.room.now)
    needed = full.maker.budget.seconds - in_peace
    assert needed == pytest.approx(1.0 * SETTINGS.recompute_share)
    full.room.step(20.0)
    full.maker.pass_time(full.room.now)
    assert full.maker.budget.seconds == pytest.approx(in_peace + needed)


def test_what_is_kept_for_arrivals_is_not_spare_unless_all_wait_for_their_readers(
    full: Full,
) -> None:
    cache = replace(FULL, free_blocks=50)
    assert full.maker.spare_tokens(cache, all_parked=False) == (50 - 2 - 10) * 16
    assert full.maker.spare_tokens(cache, all_parked=True) == 50 * 16
