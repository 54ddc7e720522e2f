"""How a reader comes to its end, and what its credit has to do with that."""

import pytest

from service.domain import EngineFinish, FinishReason
from service.errors import EngineDead
from service.stream.text import StopRules
from tests.conftest import FakeClock
from tests.stream.by_hand import CANCELLED, LENGTH, STOP, ByHand

HELD = StopRules(("XYZ",))  # two characters are held back


def end(hand: ByHand, how: str) -> None:
    if how == "finish":
        hand.push("", STOP)
    elif how == "cancel":
        hand.stream.cancel()
    else:
        hand.stream.fail(EngineDead())


LATE_ENDS = pytest.mark.parametrize("how", ["finish", "cancel", "fail"])


@LATE_ENDS
def test_an_end_that_comes_later_than_the_tokens_is_due_without_any(
    clock: FakeClock, how: str
) -> None:
    hand = ByHand(clock)
    hand.push("ab")
    assert hand.rest() == [("ab", "ab")]
    assert not hand.reader.exhausted
    end(hand, how)
    assert hand.take() is None
    assert hand.reader.exhausted
    assert not hand.told


@LATE_ENDS
def test_text_that_was_held_back_comes_with_a_late_end_by_itself(
    clock: FakeClock, how: str
) -> None:
    hand = ByHand(clock, HELD)
    hand.push("abcd")
    assert hand.rest() == [("abcd", "ab")]
    end(hand, how)
    assert hand.rest() == [("", "cd")]
    assert hand.reader.exhausted


@LATE_ENDS
def test_tokens_and_a_late_end_that_come_while_the_sink_is_busy_are_all_taken(
    clock: FakeClock, how: str
) -> None:
    hand = ByHand(clock, HELD, max_tokens_per_message=3)
    hand.push("abcd")
    end(hand, how)
    assert hand.rest() == [("abc", "a"), ("d", "b"), ("", "cd")]
    assert hand.reader.exhausted


def test_an_end_that_comes_with_the_last_token_is_taken_with_it(clock: FakeClock) -> None:
    hand = ByHand(clock, HELD)
    hand.push("ab")
    hand.rest()
    hand.push("cd", LENGTH)
    assert hand.take() == ("cd", "abcd")
    assert hand.reader.exhausted
    assert not hand.told


def test_an_end_without_any_token_is_due_and_has_nothing(clock: FakeClock) -> None:
    hand = ByHand(clock)
    hand.push("", LENGTH)
    assert hand.take() is None
    assert hand.reader.exhausted


def test_the_last_tokens_of_a_length_are_cut_into_messages_too(clock: FakeClock) -> None:
    hand = ByHand(clock, max_tokens_per_message=2)
    hand.push("abc")
    hand.push("de", LENGTH)
    assert hand.rest() == [("ab", "ab"), ("cd", "cd"), ("e", "e")]
    assert hand.reader.exhausted


def test_a_stop_token_is_delivered_but_is_no_text(clock: FakeClock) -> None:
    for size in (1, 2, 3):
        hand = ByHand(clock, max_tokens_per_message=size)
        hand.push("abc", EngineFinish(FinishReason.STOP, 99))
        taken = hand.rest()
        assert "".join(tokens for tokens, _ in taken) == "abc"
        assert "".join(text for _, text in taken) == "ab"


@pytest.mark.parametrize("stop", ["bc", "b", "c", "abc"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stop_string_is_cut_out_of_the_text_and_its_tokens_are_delivered(
    clock: FakeClock, stop: str, size: int
) -> None:
    hand = ByHand(clock, StopRules((stop,)), max_tokens_per_message=size)
    taken = []
    for letter in "abc":
        hand.push(letter)
        taken += hand.rest()
    assert "".join(tokens for tokens, _ in taken) == "abc"[: "abc".index(stop) + len(stop)]
    assert "".join(text for _, text in taken) == "abc".partition(stop)[0]
    assert hand.reader.exhausted


def test_a_stop_string_that_is_wanted_is_the_texts_end(clock: FakeClock) -> None:
    hand = ByHand(clock, StopRules(("bc",), include_stop=True))
    hand.push("a")
    taken = hand.rest()
    hand.push("bcd")
    taken += hand.rest()
    assert taken == [("a", "a"), ("bc", "bc")]


# -- reading on ----------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 3])
def test_one_that_reads_on_in_a_stream_that_has_ended_gets_its_rest_and_its_end(
    clock: FakeClock, position: int
) -> None:
    hand = ByHand(clock, HELD, keep_all=True, reading=False)
    hand.push("abcd", LENGTH)
    hand.read(position)
    (taken,) = hand.rest()
    assert taken == ("abcd"[position:], "abcd"[max(0, position - 2) :])
    assert hand.reader.exhausted


def test_one_that_reads_on_behind_all_tokens_gets_again_what_was_held_back_until_a_late_end(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, HELD, keep_all=True)
    hand.push("abcd")
    hand.rest()
    hand.stream.cancel()
    assert hand.rest() == [("", "cd")]
    hand.read(4)
    assert hand.rest() == [("", "cd")]
    assert hand.reader.exhausted


@pytest.mark.parametrize("finish", [LENGTH, STOP])
@pytest.mark.parametrize("rules", [StopRules(), HELD])
def test_one_that_reads_on_behind_the_token_that_brought_the_end_gets_no_text_twice(
    clock: FakeClock, finish: EngineFinish, rules: StopRules
) -> None:
    hand = ByHand(clock, rules, keep_all=True)
    hand.push("abcd", finish)
    assert hand.rest()[-1][1].endswith("d" if finish is LENGTH else "c")
    hand.read(4)
    assert hand.told
    assert hand.rest() == []
    assert hand.reader.exhausted


# -- credit --------------------------------------------------------------------------------------


def test_nothing_beyond_the_credit_is_delivered(clock: FakeClock) -> None:
    hand = ByHand(clock, credit=2)
    hand.push("abc")
    assert hand.rest() == [("ab", "ab")]
    hand.push("d")
    assert not hand.told
    hand.reader.grant(3)
    assert hand.rest() == [("c", "c")]
    hand.reader.grant(100)
    assert hand.rest() == [("d", "d")]


def test_without_credit_at_first_nothing_goes_out_before_some_is_granted(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, credit=0)
    hand.push("a")
    assert not hand.told
    hand.reader.grant(1)
    assert hand.rest() == [("a", "a")]


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_lower_or_repeated_credit_changes_nothing(clock: FakeClock, limit: int) -> None:
    hand = ByHand(clock, credit=2)
    hand.push("a")
    hand.rest()
    hand.reader.grant(limit)
    hand.push("bc")
    assert hand.rest() == [("b", "b")]


def test_credit_that_comes_before_the_tokens_is_kept_for_them(clock: FakeClock) -> None:
    hand = ByHand(clock, credit=0)
    hand.reader.grant(2)
    hand.push("abc")
    assert hand.rest() == [("ab", "ab")]


def test_credit_that_comes_while_something_is_due_counts_for_it(clock: FakeClock) -> None:
    hand = ByHand(clock, credit=1)
    hand.push("abc")
    hand.reader.grant(3)
    assert hand.rest() == [("abc", "abc")]


def test_credit_that_comes_during_a_delay_does_not_end_it(clock: FakeClock) -> None:
    hand = ByHand(clock, credit=2, max_delay_s=0.02)
    hand.push("a")
    hand.rest()
    hand.push("bc")
    hand.reader.grant(3)
    assert not hand.told
    hand.pass_ms(21)
    assert hand.rest() == [("bc", "bc")]


def test_credit_counts_from_the_first_index_that_is_read(clock: FakeClock) -> None:
    hand = ByHand(clock, keep_all=True, reading=False)
    hand.push("abcdef")
    hand.read(2, credit=3)
    assert hand.rest() == [("cde", "cde")]
    hand.reader.grant(6)
    assert hand.rest() == [("f", "f")]


@pytest.mark.parametrize("with_token", [True, False])
def test_an_end_waits_for_the_credit_of_the_tokens_before_it(
    clock: FakeClock, with_token: bool
) -> None:
    hand = ByHand(clock, credit=2)
    hand.push("abc", LENGTH if with_token else None)
    if not with_token:
        hand.stream.cancel()
    assert hand.rest() == [("ab", "ab")]
    assert not hand.reader.exhausted
    hand.reader.grant(3)
    assert hand.rest() == [("c", "c")]
    assert hand.reader.exhausted
    assert hand.stream.finish == (LENGTH if with_token else CANCELLED)


def test_an_end_that_comes_while_credit_is_out_is_due_when_it_is_granted(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, credit=1)
    hand.push("ab")
    hand.rest()
    hand.push("", LENGTH)
    assert not hand.told
    hand.reader.grant(2)
    assert hand.rest() == [("b", "b")]
    assert hand.reader.exhausted


def test_an_end_needs_no_credit_of_its_own(clock: FakeClock) -> None:
    for rules, tail in ((StopRules(), []), (HELD, [("", "ab")])):
        hand = ByHand(clock, rules, credit=2)
        hand.push("ab")
        hand.rest()
        hand.push("", LENGTH)
        assert hand.rest() == tail
        assert hand.reader.exhausted


def test_a_failure_waits_for_no_credit_but_what_credit_lets_through_comes_first(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, HELD, credit=3)
    hand.push("abcde")
    hand.stream.fail(EngineDead())
    assert hand.rest() == [("abc", "a")]
    assert hand.reader.exhausted


def test_a_failure_that_comes_while_credit_is_out_is_due_at_once(clock: FakeClock) -> None:
    hand = ByHand(clock, credit=1)
    hand.push("ab")
    hand.rest()
    hand.stream.fail(EngineDead())
    assert hand.take() is None
    assert hand.reader.exhausted
