import pytest

from service.domain import FinishReason
from service.errors import (
    EngineDead,
    IdNotNew,
    IdUnknown,
    Overloaded,
    ServiceError,
    StreamStalled,
    StreamTakenOver,
)
from service.session.frame import ActionKind, Credit
from service.session.session import MOST_NOTICES
from service.telemetry.outcomes import Outcome
from tests.conftest import FakeClock
from tests.service.generations import push, stream_of
from tests.session.requests import AtWork
from tests.stream.by_hand import LENGTH


@pytest.fixture
def work(clock: FakeClock) -> AtWork:
    return AtWork(clock)


# -- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [0, 1, 4, 5])
def test_an_id_that_is_not_larger_than_all_before_is_refused(work: AtWork, request_id: int) -> None:
    work.start(1)
    work.start(5)
    with pytest.raises(IdNotNew):
        work.session.open(request_id)
    work.session.open(6)


def test_an_id_is_not_new_after_its_request_has_gone(work: AtWork) -> None:
    work.start(1)
    work.session.close(1)
    with pytest.raises(IdNotNew):
        work.session.open(1)


def test_a_request_is_open_from_its_opening_until_its_end(work: AtWork) -> None:
    session = work.session
    assert not session.is_open(1)
    session.open(1)
    assert session.is_open(1)
    assert session.generation(1) is None
    generation = work.opened(1)
    assert session.generation(1) is generation
    stream_of(generation).cancel()
    work.frames()
    assert not session.is_open(1)
    assert session.generation(1) is None


# -- ends ----------------------------------------------------------------------------------------


def test_a_failure_is_told_behind_what_was_decoded_and_for_its_own_request_alone(
    work: AtWork,
) -> None:
    broken, whole = work.start(1), work.start(2)
    for generation in broken, whole:
        push(generation, "a")
    stream_of(broken).fail(EngineDead())
    (first, *others) = work.frames()
    assert first.deltas.tags == [1, 2]
    assert isinstance(work.caller.of(1).end, EngineDead)
    assert work.caller.of(1).letters == "a"
    assert work.caller.of(2).end is None
    assert work.generations.settled == [("stream 1", Outcome.UNAVAILABLE)]
    assert len(others) <= 1


def test_a_cancelled_request_finishes_with_that_reason(work: AtWork) -> None:
    generation = work.start(1)
    stream_of(generation).cancel()
    (frame,) = work.frames()
    ((request_id, finished),) = frame.finished
    assert (request_id, finished.finish.reason) == (1, FinishReason.CANCELLED)


@pytest.mark.parametrize("due", [False, True])
def test_a_reader_that_is_broken_off_fails_once_and_its_stream_is_left(
    work: AtWork, due: bool
) -> None:
    generation = work.start(1, detach=True)
    work.frames()
    if due:
        push(generation, "a")
    assert generation.reader is not None
    generation.reader.break_off(StreamStalled(30))
    work.frames()
    assert isinstance(work.caller.of(1).end, StreamStalled)
    assert not work.session.is_open(1)
    assert generation.reader is None
    assert generation.outcome is None, "the stream lives on"


def test_a_stream_that_is_resumed_in_the_same_session_fails_the_request_that_read_it(
    work: AtWork,
) -> None:
    generation = work.start(1, detach=True)
    push(generation, "abc")
    work.frames()
    work.session.open(2)
    work.resumed(2, generation, position=1)
    push(generation, "d")
    work.frames()
    assert isinstance(work.caller.of(1).end, StreamTakenOver)
    assert work.caller.of(1).letters == "abc"
    assert work.caller.of(2).letters == "bcd"
    stream_of(generation).push([], LENGTH)
    work.frames()
    assert work.caller.of(2).end is not None


def test_a_request_that_could_not_be_opened_fails_and_never_started(work: AtWork) -> None:
    work.session.open(1)
    work.session.not_opened(1, Overloaded(1, 1.0))
    (frame,) = work.frames()
    assert [(i, type(why)) for i, why in frame.failed] == [(1, Overloaded)]
    assert not work.session.is_open(1)


# -- credit --------------------------------------------------------------------------------------


def test_credit_for_several_requests_goes_to_each(work: AtWork) -> None:
    for request_id in (1, 2, 3):
        push(work.start(request_id, credit=0), "abc")
    work.session.grant(Credit([1, 3], [2, 1]))
    work.frames()
    assert [work.caller.of(i).letters for i in (1, 2, 3)] == ["ab", "", "a"]


def test_credit_that_comes_while_a_request_is_opened_counts_the_largest(work: AtWork) -> None:
    work.session.open(1)
    for limit in (1, 3, 2):
        work.session.grant(Credit([1], [limit]))
    push(work.opened(1, credit=0), "abcde")
    work.frames()
    assert work.caller.of(1).letters == "abc"


def test_credit_for_no_request_is_rejected_and_the_rest_of_the_message_counts(
    work: AtWork,
) -> None:
    push(work.start(2, credit=0), "abc")
    work.session.grant(Credit([1, 2, 3], [9, 2, 9]))
    work.frames()
    assert work.caller.rejected == [
        (1, ActionKind.CREDIT, IdUnknown),
        (3, ActionKind.CREDIT, IdUnknown),
    ]
    assert work.caller.of(2).letters == "ab"


# -- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("detach", [False, True])
def test_a_closed_request_says_nothing_more_and_ends_or_detaches_as_it_asked(
    work: AtWork, detach: bool
) -> None:
    generation = work.start(1, detach=detach)
    other = work.start(2)
    work.frames()
    push(generation, "a")
    work.session.close(1)
    push(generation, "b")
    push(other, "c")
    (frame,) = work.frames()
    assert frame.deltas.tags == [2]
    assert frame.finished == []
    assert frame.failed == []
    assert work.generations.settled == ([] if detach else [("stream 1", Outcome.DISCONNECTED)])
    assert generation.reader is None


def test_a_detaching_request_that_is_closed_before_it_was_told_ends(work: AtWork) -> None:
    work.start(1, detach=True)
    work.session.close(1)
    assert work.generations.settled == [("stream 1", Outcome.DISCONNECTED)]
    assert work.frames() == []


def test_readers_that_one_caller_takes_over_from_itself_are_bounded(work: AtWork) -> None:
    generation = work.start(1, detach=True)
    for request_id in range(2, MOST_NOTICES + 2):
        assert not work.session.is_full
        work.session.open(request_id)
        work.resumed(request_id, generation)
    assert work.session.is_full
    (frame,) = work.frames()
    assert len(frame.failed) == MOST_NOTICES
    assert work.session.generation(MOST_NOTICES + 1) is generation
    assert not work.session.is_open(1)


def test_a_request_that_was_due_and_was_closed_makes_no_frame(work: AtWork) -> None:
    generation = work.start(1)
    work.frames()
    push(generation, "a")
    work.session.close(1)
    assert work.session.next_frame() is None
    before = work.wakes.now
    generation = work.start(2)
    assert work.wakes.now == before, "a start waits for company"
    push(generation, "b")
    assert work.wakes.now == before + 1, "the writer waits again"


def test_a_request_that_was_closed_while_it_was_opened_is_told_to_nobody(work: AtWork) -> None:
    work.session.open(1)
    work.session.grant(Credit([1], [5]))
    work.session.close(1)
    assert not work.session.is_open(1)
    work.session.not_opened(1, None)
    assert work.frames() == []


def test_leaving_ends_or_detaches_every_request_and_says_nothing(work: AtWork) -> None:
    attached, detached = work.start(1), work.start(2, detach=True)
    work.session.open(3)
    work.frames()
    work.session.leave(None)
    assert work.generations.settled == [("stream 1", Outcome.DISCONNECTED)]
    assert attached.reader is detached.reader is None
    assert detached.expires_at is not None
    assert not any(work.session.is_open(request_id) for request_id in (1, 2, 3))


def test_leaving_because_the_session_was_broken_off_ends_its_requests_with_that(
    work: AtWork,
) -> None:
    attached, detached = work.start(1), work.start(2, detach=True)
    work.frames()
    work.session.leave(StreamStalled(30))
    assert work.generations.settled == [("stream 1", Outcome.STALLED)]
    assert attached.reader is detached.reader is None
    assert detached.outcome is None


def test_a_session_is_over_when_its_input_is_closed_and_no_request_is_left(
    work: AtWork,
) -> None:
    generation = work.start(1)
    work.session.open(2)
    work.session.close_input()
    assert not work.session.is_over
    work.session.not_opened(2, Overloaded(1, 1.0))
    assert not work.session.is_over
    stream_of(generation).push([], LENGTH)
    assert not work.session.is_over
    work.frames()
    assert work.session.is_over


def test_a_session_is_not_over_while_a_request_is_being_opened(work: AtWork) -> None:
    work.session.open(1)
    work.session.close_input()
    assert not work.session.is_over
    work.session.close(1)
    assert work.session.is_over


def test_without_requests_a_session_lasts_until_its_input_is_closed(work: AtWork) -> None:
    assert not work.session.is_over
    work.session.close_input()
    assert work.session.is_over


# -- notices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rejected", "failed"])
def test_with_too_many_notices_the_caller_has_to_take_them_first(work: AtWork, kind: str) -> None:
    def notice(number: int) -> None:
        if kind == "rejected":
            work.session.reject(number, ActionKind.CANCEL, IdUnknown(number))
        else:
            work.session.open(number)
            work.session.not_opened(number, ServiceError())

    for number in range(1, MOST_NOTICES):
        notice(number)
    assert not work.session.is_full
    notice(MOST_NOTICES)
    assert work.session.is_full
    assert work.session.next_frame() is not None
    assert not work.session.is_full


def test_one_message_of_credit_makes_no_more_notices_than_are_allowed(work: AtWork) -> None:
    work.session.grant(Credit(range(1, 100_001), [1] * 100_000))
    (frame,) = work.frames()
    assert len(frame.rejected) <= MOST_NOTICES
