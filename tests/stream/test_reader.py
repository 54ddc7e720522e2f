import pytest

from service.errors import StreamStalled, StreamTakenOver
from service.stream.columns import DeltaColumns
from service.stream.text import StopRules
from tests.conftest import FakeClock
from tests.stream.by_hand import LENGTH, ByHand


def test_the_first_token_is_due_at_once_whatever_the_delay(clock: FakeClock) -> None:
    hand = ByHand(clock, max_delay_s=1.0)
    assert not hand.told
    hand.push("a")
    assert hand.take() == ("a", "a")


def test_what_comes_while_the_sink_is_busy_is_one_message(clock: FakeClock) -> None:
    hand = ByHand(clock)
    for letter in "abc":
        hand.push(letter)  # the sink refuses to be told twice
    assert hand.take() == ("abc", "abc")
    assert not hand.told
    hand.push("d")
    assert hand.take() == ("d", "d")


def test_an_empty_step_makes_nothing_due(clock: FakeClock) -> None:
    hand = ByHand(clock)
    hand.push("")
    assert not hand.told


def test_without_a_delay_each_step_is_due_at_once(clock: FakeClock) -> None:
    hand = ByHand(clock, max_delay_s=0.0)
    for letter in "abc":
        hand.push(letter)
        assert hand.rest() == [(letter, letter)]


def test_after_a_message_tokens_wait_for_company_until_the_delay_is_over(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, max_delay_s=0.02)
    hand.push("a")
    hand.rest()
    hand.push("b")
    hand.push("c")
    assert not hand.told
    hand.pass_ms(21)
    assert hand.take() == ("bc", "bc")


def test_a_delay_that_ends_with_nothing_there_lets_the_next_token_go_at_once(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, max_delay_s=0.02)
    hand.push("a")
    hand.rest()
    hand.pass_ms(21)
    assert not hand.told
    hand.push("b")
    assert hand.take() == ("b", "b")


def test_the_moment_of_an_earlier_delay_does_not_end_a_later_one(clock: FakeClock) -> None:
    clock.now = 1000.001
    hand = ByHand(clock, max_delay_s=0.1, max_tokens_per_message=2)
    hand.push("a")
    hand.rest()  # delayed until 1000.1
    hand.push("bc")
    clock.now = 1000.15  # whoever fires the grid is late
    assert hand.rest() == [("bc", "bc")]  # delayed until 1000.2
    hand.push("d")
    hand.grid.fire()
    assert not hand.told
    clock.now = 1000.201
    hand.grid.fire()
    assert hand.take() == ("d", "d")


def test_as_many_tokens_as_a_message_holds_end_the_delay(clock: FakeClock) -> None:
    hand = ByHand(clock, max_delay_s=1.0, max_tokens_per_message=3)
    hand.push("a")
    hand.rest()
    hand.push("bc")
    assert not hand.told
    hand.push("d")
    assert hand.take() == ("bcd", "bcd")


@pytest.mark.parametrize("end", ["finish", "cancel", "fail"])
def test_an_end_waits_for_no_delay(clock: FakeClock, end: str) -> None:
    hand = ByHand(clock, max_delay_s=1.0)
    hand.push("a")
    hand.rest()
    hand.push("b")
    if end == "finish":
        hand.push("", LENGTH)
    elif end == "cancel":
        hand.stream.cancel()
    else:
        hand.stream.fail(StreamTakenOver())
    assert hand.rest() == [("b", "b")]
    assert hand.reader.exhausted


def test_no_message_has_more_tokens_than_it_may_and_what_is_left_follows_when_it_may(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, max_tokens_per_message=2)
    hand.push("abcde")
    assert hand.rest() == [("ab", "ab"), ("cd", "cd"), ("e", "e")]


def test_a_message_that_names_no_number_has_at_most_1024_tokens(clock: FakeClock) -> None:
    hand = ByHand(clock)
    hand.push("x" * 2500)
    assert [len(tokens) for tokens, _ in hand.rest()] == [1024, 1024, 452]


def test_a_reader_without_a_delay_of_its_own_follows_the_adaptive_one(clock: FakeClock) -> None:
    adaptive, own = ByHand(clock), ByHand(clock, max_delay_s=0.0)
    for hand in adaptive, own:
        for _ in range(5):
            hand.grid.adaptive.observe(1.0, 1.0)
        hand.push("a")
        hand.rest()
        hand.push("b")
    assert not adaptive.told
    assert own.told
    adaptive.pass_ms(51)
    assert adaptive.take() == ("b", "b")


def test_a_reader_is_due_at_once_for_what_is_there_before_it(clock: FakeClock) -> None:
    hand = ByHand(clock, keep_all=True, reading=False)
    hand.push("abc")
    hand.read(1, max_delay_s=1.0)
    assert hand.take() == ("bc", "bc")
    assert hand.reader.position == 3


def test_a_stream_that_cannot_be_resumed_forgets_what_its_reader_has_taken(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, max_tokens_per_message=2)
    for number in range(50):
        hand.push("abc")
        assert "".join(tokens for tokens, _ in hand.rest()) == "abc"
        assert len(hand.stream.tokens) == 0
        assert hand.stream.count == 3 * (number + 1)


def test_with_stop_strings_a_messages_text_does_not_run_ahead_of_its_tokens(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, StopRules(("XYZ",)), max_tokens_per_message=2)
    hand.push("abcdefgh")
    tokens = text = 0
    for letters, some_text in hand.rest():
        tokens += len(letters)
        text += len(some_text)
        assert text == max(0, tokens - 2)


def test_a_reader_that_leaves_is_told_nothing_more(clock: FakeClock) -> None:
    hand = ByHand(clock, max_delay_s=0.02)
    hand.push("a")
    hand.rest()
    hand.reader.close()
    hand.reader.close()
    hand.push("b")
    hand.pass_ms(100)
    hand.reader.grant(100)
    hand.push("c", LENGTH)
    assert not hand.told
    assert hand.reader.closed
    assert hand.reader.broken is None


def test_a_reader_that_is_broken_off_is_told_why_once_and_nothing_more(clock: FakeClock) -> None:
    hand = ByHand(clock)
    why = StreamStalled(1.0)
    hand.reader.break_off(why)
    hand.reader.break_off(StreamTakenOver())
    hand.push("a", LENGTH)
    assert hand.sink.broken == [(hand.reader, why)]
    assert hand.reader.broken is why
    assert hand.reader.closed
    assert not hand.told


def test_one_that_has_left_is_not_broken_off(clock: FakeClock) -> None:
    hand = ByHand(clock)
    hand.reader.close()
    hand.reader.break_off(StreamTakenOver())
    assert hand.sink.broken == []
    assert hand.reader.broken is None


def test_a_reader_that_left_late_does_not_take_the_place_from_the_one_that_has_it(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock, keep_all=True)
    old = hand.reader
    old.break_off(StreamTakenOver())
    hand.read(0)
    old.close()
    hand.push("a")
    assert hand.take() == ("a", "a")


# -- stalls --------------------------------------------------------------------------------------


def test_a_reader_that_takes_nothing_for_the_limit_has_stalled(clock: FakeClock) -> None:
    hand = ByHand(clock)
    hand.push("a")
    looks = [hand.reader.stalled(clock.now + second, 5.0) for second in range(7)]
    assert looks == [False] * 5 + [True, True]


def test_a_reader_for_which_nothing_waits_never_stalls(clock: FakeClock) -> None:
    hand = ByHand(clock)
    hand.push("a")
    hand.rest()
    assert not any(hand.reader.stalled(clock.now + second, 5.0) for second in range(100))


def test_the_limit_begins_when_something_waits_and_not_with_the_last_message(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock)
    assert not hand.reader.stalled(0.0, 5.0)
    assert not hand.reader.stalled(100.0, 5.0)
    hand.push("a")
    assert not hand.reader.stalled(101.0, 5.0)
    assert not hand.reader.stalled(105.9, 5.0)
    assert hand.reader.stalled(106.0, 5.0)


def test_a_slow_reader_that_takes_a_little_has_not_stalled(clock: FakeClock) -> None:
    hand = ByHand(clock, max_tokens_per_message=1)
    hand.push("x" * 30)
    for second in range(0, 100, 4):
        assert not hand.reader.stalled(float(second), 5.0)
        hand.take()


def test_a_reader_that_grants_no_credit_for_the_limit_has_stalled(clock: FakeClock) -> None:
    hand = ByHand(clock, credit=1)
    hand.push("ab")
    hand.rest()
    assert not hand.reader.stalled(0.0, 5.0)
    assert hand.reader.stalled(5.0, 5.0)


def test_a_message_that_does_not_go_out_stalls_its_reader_though_all_is_taken(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock)
    hand.push("a")
    hand.rest()
    hand.reader.sending = True
    assert not hand.reader.stalled(0.0, 5.0)
    assert hand.reader.stalled(5.0, 5.0)
    hand.reader.sent += 1
    assert not hand.reader.stalled(6.0, 5.0)


def test_an_end_that_is_not_taken_stalls_its_reader_and_one_that_is_does_not(
    clock: FakeClock,
) -> None:
    hand = ByHand(clock)
    hand.push("a", LENGTH)
    assert not hand.reader.stalled(0.0, 5.0)
    assert hand.reader.stalled(5.0, 5.0)
    hand.rest()
    assert not any(hand.reader.stalled(6.0 + second, 5.0) for second in range(20))


def test_an_end_that_was_taken_without_anything_else_stalls_nobody(clock: FakeClock) -> None:
    hand = ByHand(clock)
    hand.push("", LENGTH)
    assert not hand.reader.stalled(0.0, 5.0)
    hand.rest()
    assert not any(hand.reader.stalled(6.0 + second, 5.0) for second in range(20))


@pytest.mark.parametrize("most", [1, 2, 3])
def test_one_token_that_is_left_over_is_taken_and_the_next_are_those_that_come(
    clock: FakeClock, most: int
) -> None:
    hand = ByHand(clock, max_delay_s=0.0, max_tokens_per_message=most)
    columns = DeltaColumns()
    for letters in ("abc", "d", "ef", "ghij", "k", "lmnopqr", "st"):
        hand.push(letters)
        while hand.told:
            hand.sink.told.clear()
            hand.reader.take_into(columns)
    assert "".join(map(chr, columns.token_ids)) == "abcdefghijklmnopqrst"
    assert "".join(columns.texts) == "abcdefghijklmnopqrst"
