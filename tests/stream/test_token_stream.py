import itertools
from collections.abc import Callable

import pytest

from service.domain import EngineFinish, FinishReason
from service.errors import EngineDead, RequestFailed
from service.stream.stop_strings import StopWatch
from service.stream.text import StopRules
from service.stream.token_stream import NEVER, TokenStream
from tests.conftest import FakeClock
from tests.stream.by_hand import CANCELLED, LENGTH, STOP, LetterDecoder


class Woken:
    """A reader that only notes when it was woken."""

    def __init__(self) -> None:
        self.at: list[str] = []

    def wake(self) -> None:
        self.at.append("tokens")

    def wake_for_end(self) -> None:
        self.at.append("end")


def stream_of(clock: FakeClock, *stop: str, include_stop: bool = False) -> TokenStream:
    watch = StopWatch(LetterDecoder(), StopRules(stop, include_stop=include_stop))
    return TokenStream(clock, stop_watch=watch if stop else None)


def push(stream: TokenStream, letters: str, finish: EngineFinish | None = None) -> bool:
    return stream.push([ord(c) for c in letters], finish)


def letters(stream: TokenStream) -> str:
    return "".join(map(chr, stream.tokens))


ENDS: dict[str, Callable[[TokenStream], object]] = {
    "finish": lambda stream: stream.push([], STOP),
    "finish_with_a_token": lambda stream: push(stream, "b", LENGTH),
    "stop_string": lambda stream: push(stream, "#"),
    "cancel": lambda stream: stream.cancel(),
    "fail": lambda stream: stream.fail(RequestFailed()),
    "fail_otherwise": lambda stream: stream.fail(EngineDead()),
}


def state_of(stream: TokenStream) -> tuple[object, ...]:
    return (
        stream.finish,
        type(stream.failure),
        letters(stream),
        stream.count,
        stream.characters,
        stream.end_came_with_token,
        stream.last_is_stop,
    )


@pytest.mark.parametrize(("first", "second"), list(itertools.product(ENDS, ENDS)))
def test_of_two_ends_the_first_stands(clock: FakeClock, first: str, second: str) -> None:
    alone, both = (stream_of(clock, "#") for _ in range(2))
    for stream in alone, both:
        push(stream, "a")
        assert not stream.ended
        ENDS[first](stream)
        assert stream.ended
    assert not ENDS[second](both), "the engine is asked to stop, or an end is confirmed, twice"
    assert push(both, "z") is False
    assert state_of(both) == state_of(alone)


@pytest.mark.parametrize("end", ENDS)
def test_an_end_is_told_once_and_wakes_the_reader_whatever_it_waits_for(
    clock: FakeClock, end: str
) -> None:
    told: list[bool] = []
    watch = StopWatch(LetterDecoder(), StopRules(("#",)))
    stream = TokenStream(clock, stop_watch=watch, on_end=lambda: told.append(stream.ended))
    reader = Woken()
    stream.read_by(reader)
    ENDS[end](stream)
    for other in ENDS.values():
        other(stream)
    assert reader.at == ["end"]
    assert told == [True]


def test_a_reader_is_woken_when_as_many_tokens_are_there_as_it_asked_for(clock: FakeClock) -> None:
    stream, reader = stream_of(clock), Woken()
    stream.read_by(reader)
    push(stream, "a")
    assert reader.at == []
    stream.wake_at = 3
    push(stream, "b")
    assert reader.at == []
    push(stream, "cd")
    assert reader.at == ["tokens"]


def test_a_reader_in_anothers_place_is_woken_for_nothing_that_the_other_asked_for(
    clock: FakeClock,
) -> None:
    stream, first, second = stream_of(clock), Woken(), Woken()
    stream.read_by(first)
    stream.wake_at = 1
    stream.read_by(second)
    push(stream, "a")
    assert first.at == second.at == []
    stream.cancel()
    assert (first.at, second.at) == ([], ["end"])


def test_without_a_reader_tokens_and_end_are_kept(clock: FakeClock) -> None:
    stream = stream_of(clock)
    stream.read_by(Woken())
    stream.read_by(None)
    stream.wake_at = 1
    push(stream, "ab", LENGTH)
    assert (letters(stream), stream.finish) == ("ab", LENGTH)


def test_the_first_tokens_time_is_that_of_its_push(clock: FakeClock) -> None:
    stream = stream_of(clock)
    assert stream.push([]) is False
    assert stream.first_token_at is None
    clock.now += 5
    push(stream, "a")
    clock.now += 5
    push(stream, "b")
    assert stream.first_token_at == clock.now - 5


@pytest.mark.parametrize(
    ("finish", "is_stop"),
    [
        (STOP, True),
        (EngineFinish(FinishReason.STOP, 98), True),
        (LENGTH, False),
        (EngineFinish(FinishReason.REPETITION), False),
    ],
)
def test_the_last_token_is_a_stop_token_if_the_engine_stopped_at_it(
    clock: FakeClock, finish: EngineFinish, is_stop: bool
) -> None:
    for stream in stream_of(clock), stream_of(clock, "#"):
        push(stream, "a")
        push(stream, "b", finish)
        assert stream.end_came_with_token
        assert stream.last_is_stop is is_stop


@pytest.mark.parametrize("end", ["finish", "cancel", "fail"])
def test_an_end_without_a_token_came_with_none(clock: FakeClock, end: str) -> None:
    stream = stream_of(clock)
    push(stream, "a")
    ENDS[end](stream)
    assert not stream.end_came_with_token
    assert not stream.last_is_stop


def test_a_stop_string_ends_the_stream_and_asks_the_engine_to_stop(clock: FakeClock) -> None:
    stream = stream_of(clock, "bc")
    assert push(stream, "ab") is False
    assert push(stream, "cd") is True
    assert push(stream, "e") is False
    assert letters(stream) == "abc"
    assert stream.count == 3
    assert stream.finish == EngineFinish(FinishReason.STOP, "bc")
    assert stream.characters == 1
    assert stream.end_came_with_token
    assert not stream.last_is_stop


def test_a_stop_string_in_the_engines_last_step_needs_no_asking_and_names_the_end(
    clock: FakeClock,
) -> None:
    stream = stream_of(clock, "bc")
    assert push(stream, "abc", LENGTH) is False
    assert stream.finish == EngineFinish(FinishReason.STOP, "bc")


def test_a_stop_string_that_is_wanted_in_the_text_cuts_behind_it(clock: FakeClock) -> None:
    stream = stream_of(clock, "bc", include_stop=True)
    push(stream, "abcd")
    assert stream.characters == 3


def test_a_stop_token_hides_no_stop_string_before_it(clock: FakeClock) -> None:
    stream = stream_of(clock, "ab")
    push(stream, "abz", STOP)
    assert stream.finish == EngineFinish(FinishReason.STOP, "ab")
    assert letters(stream) == "ab"
    assert not stream.last_is_stop, "the last of them is text"


@pytest.mark.parametrize("keep_all", [False, True])
def test_what_was_taken_is_forgotten_unless_the_stream_can_be_resumed(
    clock: FakeClock, keep_all: bool
) -> None:
    stream = TokenStream(clock, keep_all=keep_all)
    push(stream, "abc")
    stream.all_taken()
    push(stream, "d")
    assert (letters(stream), stream.first_kept) == (("abcd", 0) if keep_all else ("d", 3))
    assert stream.count == 4


def test_a_cancelled_stream_says_so_and_only_once(clock: FakeClock) -> None:
    stream = stream_of(clock)
    assert stream.cancel() is True
    assert stream.cancel() is False
    assert stream.finish == CANCELLED


def test_a_new_stream_wakes_nobody_at_any_number(clock: FakeClock) -> None:
    assert stream_of(clock).wake_at == NEVER
