"""Who is in the queue: held, passed over, removed. The order is in `test_waiting_queue`."""

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine_core.fair_shares import FairShares
from service.engine_core.waiting_queue import WaitingQueue
from tests.engine_core.waiters import Waiter, WaitingRoom


@pytest.fixture
def room() -> WaitingRoom:
    return WaitingRoom()


def test_a_held_one_is_counted_and_is_not_next_until_it_is_released(room: WaitingRoom) -> None:
    held, other = room.comes(), room.comes()
    room.queue.hold(held)
    room.step()
    assert (len(room.queue), room.queue.held) == (2, 1)
    assert held in room.queue
    assert list(room.queue) == [held, other]
    assert room.take_all() == [other]
    room.queue.release(held)
    assert room.take_all() == [held]


def test_who_was_looked_at_and_is_held_then_is_not_next(room: WaitingRoom) -> None:
    held, other = room.comes(), room.comes()
    room.step()
    assert room.queue.peek_request() is held
    room.queue.hold(held)
    assert room.queue.peek_request() is other


def test_to_hold_or_release_one_that_is_not_in_does_nothing(room: WaitingRoom) -> None:
    gone = room.comes()
    room.step()
    room.queue.pop_request()
    room.queue.hold(gone)
    room.queue.release(gone)
    assert (len(room.queue), room.queue.held, bool(room.queue)) == (0, 0, False)


def test_what_is_next_stays_next_whatever_arrives_within_the_step(room: WaitingRoom) -> None:
    first = room.comes(first_token_target_s=5.0)
    room.step()
    assert room.queue.peek_request() is first
    urgent = room.comes(first_token_target_s=0.1, priority=1)
    room.shares.charge("", 1000, 0)
    assert room.queue.peek_request() is first
    assert room.take_all() == [first, urgent]


def test_those_that_were_passed_over_keep_their_place(room: WaitingRoom) -> None:
    came = [room.comes() for _ in range(4)]
    room.step()
    passed_over = [room.queue.pop_request() for _ in range(2)]
    room.queue.prepend_requests(reversed(passed_over))
    room.step()
    assert room.take_all() == came


def test_a_tenant_whose_only_request_was_passed_over_has_not_begun_to_wait_anew(
    room: WaitingRoom,
) -> None:
    passed_over = room.comes(tenant="a")
    room.comes(tenant="b")
    room.shares.charge("b", 1000, 0)
    room.step()
    assert room.queue.pop_request() is passed_over
    room.queue.prepend_requests([passed_over])
    assert room.shares.counter("a") == 0


def test_one_that_was_held_for_a_while_keeps_its_place(room: WaitingRoom) -> None:
    came = [room.comes() for _ in range(4)]
    for waiter in (came[0], came[2]):
        room.queue.hold(waiter)
    for waiter in (came[2], came[0]):
        room.queue.release(waiter)
    room.step()
    assert room.take_all() == came


class BrokenShares(FairShares):
    """Fails when it is asked."""

    def counter(self, tenant: str) -> float:
        raise RuntimeError("an order that cannot be worked out")


def test_where_the_order_cannot_be_worked_out_it_is_told_and_somebody_is_next() -> None:
    room = WaitingRoom()
    failures: list[BaseException | None] = []
    queue = WaitingQueue[Waiter](
        room.states.__getitem__,
        BrokenShares({}),
        room.settings,
        lambda: failures.append(sys.exc_info()[1]),
    )
    came = [room.comes() for _ in range(3)]
    for waiter in came:
        queue.add_request(waiter)
    queue.hold(came[0])
    queue.begin_step(room.now, 0)
    with pytest.raises(RuntimeError):
        queue.upcoming(2)
    assert len(queue) == 3
    assert [queue.pop_request(), queue.pop_request()] == came[1:]
    assert not queue
    assert all(isinstance(failure, RuntimeError) for failure in failures)
    assert len(failures) == 2


def test_to_look_at_the_upcoming_ones_changes_nothing(room: WaitingRoom) -> None:
    came = [room.comes() for _ in range(6)]
    room.step()
    for _ in range(3):
        assert room.queue.upcoming(4) == came[:4]
    assert room.take_all() == came


def test_the_upcoming_ones_are_no_more_than_there_are_and_none_that_is_held(
    room: WaitingRoom,
) -> None:
    came = [room.comes() for _ in range(3)]
    room.queue.hold(came[1])
    room.step()
    assert room.queue.upcoming(10) == [came[0], came[2]]
    assert len(room.queue) == 3


def test_what_was_taken_in_a_step_is_told_until_the_next_one_begins(room: WaitingRoom) -> None:
    came = [room.comes() for _ in range(3)]
    room.step()
    for _ in range(2):
        room.queue.pop_request()
    assert room.queue.taken == came[:2]
    room.step()
    assert room.queue.taken == []


def test_one_that_is_removed_is_gone_and_may_be_removed_again(room: WaitingRoom) -> None:
    came = [room.comes() for _ in range(4)]
    room.queue.hold(came[3])
    room.step()
    assert room.queue.peek_request() is came[0]
    room.queue.remove_requests([came[0], came[3], came[0]])
    room.queue.remove_request(came[2])
    assert came[0] not in room.queue
    assert (len(room.queue), room.queue.held) == (1, 0)
    assert room.take_all() == [came[1]]


def test_thousands_of_tenants_that_come_once_leave_nothing_behind(room: WaitingRoom) -> None:
    for number in range(2000):
        room.comes(tenant=f"once {number}", priority=number % 3)
        room.step()
        room.queue.pop_request()
    room.step()
    assert not room.queue._lanes
    assert not room.queue._lane_of
    assert not room.queue._members
    assert not room.queue._tenants
    assert not room.queue._numbers
    assert not room.shares._waiting


@settings(deadline=None)
@given(
    st.permutations(range(16)),
    st.sets(st.integers(0, 15), min_size=1, max_size=8),
    st.booleans(),
)
def test_the_order_holds_however_many_leave_from_its_middle(
    dues: list[int], leaving: set[int], evicted: bool
) -> None:
    room = WaitingRoom()
    came = [room.comes(first_token_target_s=float(due), reading_rate=1.0) for due in dues]
    room.step()
    if evicted:
        for waiter in room.take_all():
            room.comes_back(
                waiter, tokens=dues[waiter.number] + 4, first_token_at=room.now - 1000.0
            )
    gone = {came[number] for number in leaving}
    for waiter in gone:
        room.queue.remove_request(waiter)
    room.step()
    order = [dues[waiter.number] for waiter in room.take_all()]
    assert order == sorted(dues[waiter.number] for waiter in came if waiter not in gone)
