import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine_core.settings import Settings
from service.engine_core.waiting_queue import WaitingQueue
from tests.engine_core.waiters import Waiter, WaitingRoom


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom()


def test_a_queue_where_nobody_waits_is_false_and_cannot_be_looked_into(room: WaitingRoom) -> None:
    assert not room.queue
    assert len(room.queue) == 0
    for look in (room.queue.peek_request, room.queue.pop_request):
        with pytest.raises(IndexError):
            look()


def test_those_that_came_together_are_served_in_the_order_in_which_they_came(
    room: WaitingRoom,
) -> None:
    came = [room.comes() for _ in range(5)]
    room.step()
    assert room.take_all() == came


def test_whose_first_token_is_due_first_is_first(room: WaitingRoom) -> None:
    easy = room.comes(first_token_target_s=5.0)
    strict = room.comes(first_token_target_s=0.5)
    bound = room.comes(first_token_target_s=5.0, deadline=room.now + 1.0)
    room.step()
    assert room.take_all() == [strict, bound, easy]


def test_a_higher_class_goes_before_whatever_has_waited(room: WaitingRoom) -> None:
    low, plain = room.comes(priority=-1), room.comes()
    room.step(30.0)
    high = room.comes(priority=1)
    room.step()
    assert room.take_all() == [high, plain, low]


def test_the_tenant_that_has_had_least_is_next_whoever_came_first(room: WaitingRoom) -> None:
    greedy = room.comes(tenant="greedy")
    modest = room.comes(tenant="modest")
    room.shares.charge("greedy", 10, 0)
    room.step()
    assert room.take_all() == [modest, greedy]


def test_with_shares_switched_off_a_tenants_counter_does_not_matter() -> None:
    room = WaitingRoom(Settings(fair_shares=False))
    room.comes(tenant="greedy", priority=1)
    room.shares.charge("greedy", 10_000, 0)
    room.comes(tenant="modest")
    room.step()
    assert [room.states[w.request_id].said.tenant for w in room.take_all()] == ["greedy", "modest"]


def test_with_shares_switched_off_no_tenant_keeps_another_waiting() -> None:
    room = WaitingRoom(Settings(fair_shares=False))
    first, other = room.comes(tenant="flood"), room.comes(tenant="quiet")
    later = room.comes(tenant="flood")
    room.step()
    assert room.take_all() == [first, other, later]


def test_with_pacing_switched_off_they_are_served_as_they_came_and_evicted_ones_first() -> None:
    room = WaitingRoom(Settings(pacing=False))
    evicted = room.comes(reading_rate=None)
    room.step(0.1)
    room.queue.pop_request()
    undeclared = room.comes(reading_rate=None)
    room.step(0.1)
    declared = room.comes()
    room.comes_back(evicted, tokens=400, first_token_at=room.now)
    room.step()
    assert room.take_all() == [evicted, undeclared, declared]


def test_of_those_that_are_late_the_newest_is_first_and_behind_those_in_time(
    room: WaitingRoom,
) -> None:
    old = room.comes()
    room.step(1.0)
    newer = room.comes()
    room.step(4.0)
    in_time = room.comes()
    room.step()
    assert room.queue.has_late
    assert room.take_all() == [in_time, newer, old]


@pytest.mark.parametrize(("queue_s", "patience_s"), [(0.0, 20.0), (10.0, 20.0), (50.0, 90.0)])
def test_the_oldest_is_next_once_its_patience_has_ended(
    room: WaitingRoom, queue_s: float, patience_s: float
) -> None:
    old = room.comes()
    room.step(patience_s)
    room.queue.queue_s = queue_s
    room.comes()
    assert room.queue.peek_request() is not old
    room.step(0.01)
    room.queue.queue_s = queue_s
    assert room.queue.peek_request() is old


def test_with_pacing_switched_off_nobody_is_late() -> None:
    room = WaitingRoom(Settings(pacing=False))
    old = room.comes()
    room.step(100.0)
    new = room.comes()
    room.step()
    assert not room.queue.has_late
    assert room.take_all() == [old, new]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 3)), min_size=1, max_size=120),
    st.integers(0, 20),
)
def test_nobody_starves_whoever_comes_later(steps: list[tuple[int, int]], queue_ticks: int) -> None:
    room = WaitingRoom()
    came, arrived = [room.comes()], {0: room.now}
    taken: set[int] = set()
    queue_s = queue_ticks * 1.5
    patience_s = max(20.0, 1.8 * queue_s)
    for ticks, newcomers in steps:
        room.now += ticks / 8
        for _ in range(newcomers):
            waiter = room.comes()
            came.append(waiter)
            arrived[waiter.number] = room.now
        room.step()
        room.queue.queue_s = queue_s
        if room.queue:
            oldest = min(set(arrived) - taken)
            waiter = room.queue.pop_request()
            if room.now - arrived[oldest] > patience_s:
                assert arrived[waiter.number] == arrived[oldest]
            taken.add(waiter.number)


def evicted(room: WaitingRoom, *, tokens: int, rate: float = 4.0) -> Waiter:
    """One that had so many tokens when it was evicted, as long ago as their reader reads them."""
    waiter = room.comes(reading_rate=rate)
    room.step()
    while room.queue.pop_request() is not waiter:
        pass
    room.comes_back(waiter, tokens=tokens, first_token_at=room.now)
    return waiter


def test_an_evicted_one_whose_reader_is_about_to_run_dry_goes_first(room: WaitingRoom) -> None:
    back = evicted(room, tokens=40)  # 10 seconds' worth
    room.step(5.99, spare_tokens=10_000)
    newcomer = room.comes()
    assert room.queue.peek_request() is newcomer
    room.step(0.01)
    assert room.take_all() == [back, newcomer]


def test_one_that_has_been_away_for_long_goes_before_the_late_and_behind_those_in_time(
    room: WaitingRoom,
) -> None:
    back = evicted(room, tokens=4000)
    late = room.comes()
    room.step(20.0)
    assert room.queue.peek_request() is late
    room.step(0.01)
    in_time = room.comes()
    younger = room.comes(deadline=room.now - 2.0)
    room.step()
    room.queue.queue_s = 100.0  # so that no patience has ended
    assert room.take_all() == [in_time, back, younger, late]


def test_one_that_is_back_does_not_count_as_away_any_more(room: WaitingRoom) -> None:
    first = evicted(room, tokens=4000)
    room.step(10.0, spare_tokens=1000)
    assert room.take_all() == [first]
    second = evicted(room, tokens=8000)
    room.queue.remove_request(evicted(room, tokens=4000))
    room.step(15.0)
    assert not room.queue
    room.step(5.01)
    assert room.take_all() == [second]


def test_a_tenant_over_its_share_is_let_in_one_a_step_and_into_spare_room_only(
    room: WaitingRoom,
) -> None:
    greedy = [room.comes(tenant="greedy") for _ in range(3)]
    modest = room.comes(tenant="modest")
    room.step(spare_tokens=99, held={"greedy": 500})
    assert room.take_all() == [modest]
    room.shares.arrive("modest")
    held = {"greedy": 500, "modest": 10}  # as it runs on
    room.step(spare_tokens=99, held=held)
    assert room.take_all() == []
    room.step(spare_tokens=1000, held=held)
    assert room.take_all() == greedy[:1]
    room.step(spare_tokens=100, held=held)
    assert room.take_all() == greedy[1:2]
    room.step(held=held | {"modest": 500})
    assert room.take_all() == greedy[2:]


def test_one_that_was_taken_only_to_be_passed_over_keeps_no_tenant_waiting() -> None:
    room, runs = WaitingRoom(), set[Waiter]()
    room.queue = WaitingQueue(
        room.states.__getitem__, room.shares, room.settings, is_admitted=runs.__contains__
    )
    room.comes(tenant="modest")
    mine = [room.comes(tenant="mine") for _ in range(2)]
    room.shares.charge("mine", 1000, 0)
    room.step(spare_tokens=150, held={"mine": 600, "modest": 0})
    room.queue.pop_request()  # the modest tenant's, whose grammar is not compiled yet, say
    assert room.queue.pop_request() is mine[0]
    runs.add(mine[0])
    assert not room.queue


def test_a_tenant_over_its_share_leaves_room_also_where_its_requests_are_of_a_higher_class(
    room: WaitingRoom,
) -> None:
    greedy = room.comes(tenant="greedy", priority=1)
    modest = room.comes(tenant="modest")
    room.step(spare_tokens=99, held={"greedy": 500})
    assert room.take_all() == [modest]
    room.step(spare_tokens=100, held={"greedy": 500})
    assert room.take_all() == [greedy]


def test_a_tenant_is_lifted_while_it_waits_and_not_while_it_is_held(room: WaitingRoom) -> None:
    shares = room.shares
    served = room.comes(tenant="served")
    held = room.comes(tenant="held")
    room.queue.hold(held)
    shares.charge("served", 1000, 0)
    room.comes(tenant="new")
    assert (shares.counter("held"), shares.counter("new")) == (0, 1000)
    room.queue.release(held)
    assert shares.counter("held") == 1000
    shares.charge("served", 1000, 0)
    room.queue.hold(held)
    room.queue.hold(held)  # again: it does not leave twice
    room.queue.release(held)
    room.queue.release(held)
    assert shares.counter("held") == 1000  # "new" has had no more
    room.queue.remove_requests([served, held])
    assert +shares._waiting == {"new": 1}


def test_an_evicted_one_whose_reader_has_time_comes_back_into_spare_room_only(
    room: WaitingRoom,
) -> None:
    back = evicted(room, tokens=400)
    room.step(spare_tokens=99)
    assert not room.queue
    assert len(room.queue) == 1
    room.step(spare_tokens=100)
    assert room.queue.pop_request() is back


def test_spare_room_is_given_away_once(room: WaitingRoom) -> None:
    first = room.comes(reading_rate=4.0)
    second = room.comes(reading_rate=4.0)
    room.step()
    for waiter in room.take_all():
        room.comes_back(waiter, tokens=400 + waiter.number, first_token_at=room.now)
    room.step(spare_tokens=150)
    assert room.take_all() == [first]
    room.step(spare_tokens=150)
    assert room.take_all() == [second]


def test_a_reader_without_a_rate_is_not_kept_waiting_after_an_eviction(room: WaitingRoom) -> None:
    back = room.comes(reading_rate=None)
    room.step()
    room.queue.pop_request()
    room.comes()
    room.comes_back(back, tokens=400, first_token_at=room.now)
    room.step()
    assert room.queue.peek_request() is back
