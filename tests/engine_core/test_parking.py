from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine_core.parking import NEVER, Parking
from service.engine_core.settings import Settings
from tests.engine_core.waiters import Waiter, WaitingRoom

SETTINGS = Settings(high_mark=40, low_mark=10, first_mark=8, silence_s=5.0)


@dataclass(eq=False)
class Runs(Waiter):
    """A request with a place, as far as parking looks at it."""

    num_output_tokens: int = 0
    num_output_placeholders: int = 0
    num_computed_tokens: int = 0
    is_prefill_chunk: bool = False
    next_decode_eligible_step: int = 0


@dataclass
class Place:
    """Some running requests, and who of them is parked."""

    tokens_a_step: int = 1
    step: int = 0
    running: list[Runs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.room = WaitingRoom(SETTINGS)
        self.parking: Parking[Runs] = Parking(
            self.room.states,
            self.room.queue,  # type: ignore[arg-type]
            SETTINGS,
            self.tokens_a_step,
        )

    def runs(self, tokens: int = 0, position: int = 0, **given: object) -> Runs:
        waiter = self.room.comes()
        self.room.step()
        self.room.queue.pop_request()
        self.room.states[waiter.request_id].position = position
        request = Runs(waiter.request_id, num_output_tokens=tokens, **given)  # type: ignore[arg-type]
        self.running.append(request)
        return request

    def look(self) -> set[Runs]:
        self.step += 1
        self.parking.look(self.running, self.step, self.room.now)
        return self.parking.requests

    def moves(self, request: Runs, position: int) -> bool:
        state = self.room.states[request.request_id]
        return self.parking.reader_moved(state, position, request.num_output_tokens)


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_reader_that_has_taken_nothing_has_the_first_mark_and_one_that_reads_has_more(
    place: Place,
) -> None:
    new, reads, far = place.runs(8), place.runs(20, position=13), place.runs(140, position=100)
    assert place.look() == {new, far}
    assert (new.next_decode_eligible_step, reads.next_decode_eligible_step) == (NEVER, 0)


def test_tokens_that_are_under_way_count_and_a_prefill_is_never_cut(place: Place) -> None:
    under_way = place.runs(7, num_output_placeholders=1)
    prefill = place.runs(8, is_prefill_chunk=True)
    assert place.look() == {under_way}
    prefill.is_prefill_chunk = False
    assert place.look() == {under_way, prefill}


@pytest.mark.parametrize("tokens_a_step", [1, 3])
def test_between_two_looks_nobody_can_have_passed_its_mark(tokens_a_step: int) -> None:
    place = Place(tokens_a_step)
    request = place.runs()
    while not place.look():
        request.num_output_tokens += tokens_a_step
        assert place.step < 100
    assert 8 <= request.num_output_tokens < 8 + tokens_a_step


def test_nobody_is_looked_at_again_before_anybody_can_be_at_its_mark(place: Place) -> None:
    request = place.runs(3)
    assert not place.look()
    request.num_output_tokens = 50  # which cannot be
    for _ in range(4):
        assert not place.look()
    assert place.look() == {request}


@pytest.mark.parametrize(("position", "goes_on"), [(89, False), (90, True), (100, True)])
def test_one_goes_on_when_its_reader_is_within_the_low_mark(
    place: Place, position: int, goes_on: bool
) -> None:
    request = place.runs(100, position=60)
    place.look()
    assert place.moves(request, position) is goes_on


def test_one_that_is_not_parked_does_not_have_to_go_on(place: Place) -> None:
    request = place.runs(5)
    place.look()
    assert not place.moves(request, 5)


def test_one_that_goes_on_has_its_next_step_and_is_looked_at_again(place: Place) -> None:
    request = place.runs(8)
    place.look()
    state = place.room.states[request.request_id]
    place.parking.unpark(request, state, place.step, place.room.now)
    assert request.next_decode_eligible_step == place.step + 1
    assert not place.parking.requests
    assert place.look() == {request}


def test_one_that_goes_on_has_its_next_step_no_earlier_than_vllm_would_have_given_it(
    place: Place,
) -> None:
    request = place.runs(8, next_decode_eligible_step=4)
    place.look()
    state = place.room.states[request.request_id]
    place.parking.unpark(request, state, place.step, place.room.now)
    assert request.next_decode_eligible_step == 4


def test_a_reader_that_is_further_back_than_before_is_looked_at_at_once(place: Place) -> None:
    request = place.runs(40, position=30)
    assert not place.look()
    place.moves(request, 0)
    assert place.look() == {request}


def test_all_that_are_let_go_are_not_parked_again_for_a_while(place: Place) -> None:
    request = place.runs(8)
    place.look()
    place.parking.unpark_all(place.step, place.room.now)
    for _ in range(SETTINGS.high_mark - 1):
        assert not place.look()
    assert place.look() == {request}


def test_a_service_is_silent_until_it_is_heard_and_again_when_it_is_not_for_long(
    place: Place,
) -> None:
    assert place.parking.hears_nothing(1000.0)
    place.parking.hear(1000.0)
    assert not place.parking.hears_nothing(1005.0)
    assert place.parking.hears_nothing(1005.1)


@given(st.lists(st.booleans(), max_size=12))
def test_those_that_are_parked_stand_last_and_else_in_their_order(parked: list[bool]) -> None:
    place = Place()
    for is_parked in parked:
        place.runs(8 if is_parked else 0)
    place.look()
    last = place.parking.last(place.running)
    assert [r.num_output_tokens for r in last] == sorted(r.num_output_tokens for r in last)
    for tokens in (0, 8):
        of_these = [r for r in place.running if r.num_output_tokens == tokens]
        assert [r for r in last if r.num_output_tokens == tokens] == of_these
