from service.domain import Finished
from service.errors import EngineDead, StreamStalled
from service.session.frame import Credit, choice_of, id_of, tag_of
from tests.conftest import FakeClock
from tests.service.generations import push, stream_of
from tests.session.requests import AtWork
from tests.stream.by_hand import LENGTH


def test_a_tag_tells_request_and_choice() -> None:
    for request_id in (0, 1, 2**32 - 1):
        assert (id_of(request_id), choice_of(request_id)) == (request_id, 0)
        for index in (0, 1, 15):
            tag = tag_of(request_id, index)
            assert (id_of(tag), choice_of(tag)) == (request_id, index)
            assert tag != request_id


def test_one_request_has_one_start_and_an_end_for_each_choice(clock: FakeClock) -> None:
    work = AtWork(clock)
    work.session.open(1)
    first, second = work.opened_several(1, 2).choices
    push(first, "ab")
    push(second, "c")
    stream_of(second).push([], LENGTH)
    work.frames()
    received = [work.caller.of(tag) for tag in work.caller.tags(1)]
    assert [r.letters for r in received] == ["ab", "c"]
    assert received[0].end is None
    assert isinstance(received[1].end, Finished)
    assert work.session.is_open(1)
    stream_of(first).push([], LENGTH)
    work.frames()
    assert isinstance(received[0].end, Finished)
    assert not work.session.is_open(1)


def test_a_failure_waits_for_what_other_choices_have(clock: FakeClock) -> None:
    work = AtWork(clock)
    work.session.open(1)
    first, second = work.opened_several(1, 2).choices
    letters = "ab" * 1000  # more than one message
    push(first, letters)
    stream_of(second).fail(EngineDead())
    work.frames()
    received = [work.caller.of(tag) for tag in work.caller.tags(1)]
    assert [r.letters for r in received] == [letters, ""]
    assert all(isinstance(r.end, EngineDead) for r in received)
    assert not work.session.is_open(1)


def test_a_failure_does_not_wait_for_credit(clock: FakeClock) -> None:
    work = AtWork(clock)
    work.session.open(1)
    first, second = work.opened_several(1, 2, credit=2).choices
    push(first, "abcd")
    work.frames()
    stream_of(second).fail(EngineDead())
    work.frames()
    assert work.caller.of(tag_of(1, 0)).letters == "ab"
    assert not work.session.is_open(1)


def test_one_broken_reader_fails_the_request_once(clock: FakeClock) -> None:
    work = AtWork(clock)
    work.session.open(1)
    first, second = work.opened_several(1, 2).choices
    work.frames()
    for choice in first, second:
        if choice.reader is not None:
            choice.reader.break_off(StreamStalled(1))
    (frame,) = work.frames()
    assert [request_id for request_id, _ in frame.failed] == [1]
    assert len(work.generations.settled) == 2


def test_credit_reaches_the_choices_that_still_run(clock: FakeClock) -> None:
    work = AtWork(clock)
    work.session.open(1)
    first, second = work.opened_several(1, 2, credit=1).choices
    push(first, "a")
    stream_of(first).push([], LENGTH)
    push(second, "bcd")
    work.frames()
    work.session.grant(Credit([1], [3]))
    work.frames()
    assert work.caller.of(tag_of(1, 1)).letters == "bcd"
    assert work.caller.rejected == []
