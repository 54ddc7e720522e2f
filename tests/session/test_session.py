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
from service.session import session as session_module
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


# -- frames --------------------------------------------------------------------------------------


def test_one_frame_has_the_deltas_of_all_requests_as_columns(work: AtWork) -> None:
    for request_id, letters in ((1, "abc"), (2, "d"), (5, "ef")):
        push(work.start(request_id), letters)
    (frame,) = work.frames()
    assert [request_id for request_id, _ in frame.started] == [1, 2, 5]
    assert frame.deltas.tags == [1, 2, 5]
    assert frame.deltas.first_token_indexes == [0, 0, 0]
    assert frame.deltas.token_counts == [3, 1, 2]
    assert frame.deltas.token_ids == [ord(c) for c in "abcdef"]
    assert frame.deltas.texts == ["abc", "d", "ef"]


def test_a_request_can_start_go_on_and_finish_in_one_frame(work: AtWork) -> None:
    generation = work.start(1)
    push(generation, "a")
    stream_of(generation).push([98], LENGTH)
    (frame,) = work.frames()
    assert [request_id for request_id, _ in frame.finished] == [1]
    assert work.caller.of(1).letters == "ab"
    assert work.generations.settled == [("stream 1", Outcome.LENGTH)]
    assert generation.reader is None


def test_without_anything_to_say_there_is_no_frame(work: AtWork) -> None:
    assert work.session.next_frame() is None
    work.start(1)
    assert len(work.frames()) == 1
    assert work.session.next_frame() is None


def test_what_comes_while_a_frame_is_written_is_one_delta_of_the_next(work: AtWork) -> None:
    generation = work.start(1)
    push(generation, "a")
    work.frames()
    for letter in "bcd":
        push(generation, letter)
    (frame,) = work.frames()
    assert frame.deltas.texts == ["bcd"]
    assert frame.deltas.first_token_indexes == [1]


def test_a_request_that_has_more_than_one_message_holds_goes_on_in_the_next_frame(
    work: AtWork,
) -> None:
    generation = work.start(1)
    push(generation, "x" * 2500)
    assert [frame.deltas.token_counts for frame in work.frames()] == [[1024], [1024], [452]]


def test_those_whom_a_full_frame_left_out_come_first_in_the_next(
    work: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MOST_TOKENS_PER_FRAME", 2000)
    for request_id in range(1, 6):
        push(work.start(request_id), "x" * 3000)
    # None waits longer than the deltas of all others take.
    assert [frame.deltas.tags for frame in work.frames()] == [
        [1, 2],
        [3, 4],
        [5, 1],
        [2, 3],
        [4, 5],
        [1, 2, 3],
        [4, 5],
    ]


def test_a_frame_is_full_at_its_bound_and_one_delta_more_at_most(
    work: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MOST_TOKENS_PER_FRAME", 10)
    for request_id in range(1, 20):
        push(work.start(request_id), "x" * (request_id % 4))
    sizes = [len(frame.deltas.token_ids) for frame in work.frames()]
    assert all(size < 10 + 3 for size in sizes)
    assert all(size >= 10 for size in sizes[:-1])


# -- waking --------------------------------------------------------------------------------------


def test_the_writer_is_woken_once_for_many_readers_and_again_after_it_had_nothing(
    work: AtWork,
) -> None:
    generations = [work.start(request_id) for request_id in range(1, 4)]
    work.frames()
    before = work.wakes.now
    for generation in generations:
        push(generation, "a")
    assert work.wakes.now == before + 1
    work.frames()
    push(generations[0], "b")
    assert work.wakes.now == before + 2


def test_while_it_has_not_said_that_it_had_nothing_the_writer_is_not_woken(work: AtWork) -> None:
    generation = work.start(1)
    push(generation, "a")
    before = work.wakes.now
    assert work.session.next_frame() is not None
    push(generation, "b")  # while that is being written
    assert work.wakes.now == before
    assert work.session.next_frame() is not None


def test_a_start_alone_can_wait_for_company(work: AtWork) -> None:
    work.start(1)
    assert (work.wakes.now, work.wakes.soon) == (0, 1)


@pytest.mark.parametrize("what", ["rejected", "failed", "closed", "input closed"])
def test_whatever_else_is_to_be_said_wakes_the_writer(work: AtWork, what: str) -> None:
    work.start(1)
    work.session.open(2)
    work.frames()
    before = work.wakes.now
    if what == "rejected":
        work.session.reject(9, ActionKind.CANCEL, IdUnknown(9))
    elif what == "failed":
        work.session.not_opened(2, Overloaded(1, 1.0))
    elif what == "closed":
        work.session.close(1)
    else:
        work.session.close_input()
    assert work.wakes.now == before + 1


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


def test_a_request_that_was_due_and_was_closed_makes_no_frame(work: AtWork) -> None:
    generation = work.start(1)
    work.frames()
    push(generation, "a")
    work.session.close(1)
    assert work.session.next_frame() is None
    before = work.wakes.now
    push(work.start(2), "b")
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


@pytest.mark.xfail(reason="each id of a credit makes a notice", strict=True)
def test_one_message_of_credit_makes_no_more_notices_than_are_allowed(work: AtWork) -> None:
    work.session.grant(Credit(range(1, 100_001), [1] * 100_000))
    (frame,) = work.frames()
    assert len(frame.rejected) <= MOST_NOTICES
