import pytest

from service.errors import (
    IdUnknown,
    Overloaded,
)
from service.session import session as session_module
from service.session.frame import ActionKind
from service.telemetry.outcomes import Outcome
from tests.conftest import FakeClock
from tests.service.generations import push, stream_of
from tests.session.requests import AtWork
from tests.stream.by_hand import LENGTH


@pytest.fixture
def work(clock: FakeClock) -> AtWork:
    return AtWork(clock)


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


def test_a_frame_that_has_just_its_bound_is_full(
    work: AtWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MOST_TOKENS_PER_FRAME", 10)
    for request_id in range(1, 6):
        push(work.start(request_id), "x" * 5)
    assert [frame.deltas.tags for frame in work.frames()] == [[1, 2], [3, 4], [5]]


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
