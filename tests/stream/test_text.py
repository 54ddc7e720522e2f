from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.scripted import END_OF_TEXT, Utf8Decoder
from service.stream.stop_strings import StopMatch
from service.stream.text import StopRules, TextCursor
from tests.stream.by_hand import PieceDecoder, naive_stop

# One to four bytes each.
LETTERS = "ab\u00e9\u20ac\U0001f600"
# Very few, so that stop strings meet, overlap and repeat.
FEW = "ab\u20ac"

stop_strings = st.lists(st.text(alphabet=FEW, min_size=1, max_size=4), max_size=4).map(tuple)
all_rules = st.builds(StopRules, stop_strings, st.integers(0, 4), st.booleans())
sizes = st.lists(st.integers(1, 4), min_size=12, max_size=12)


def cut(tokens: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """The tokens in messages of these sizes; the last message has what is left."""
    messages: list[Sequence[int]] = []
    for size in sizes:
        if not tokens:
            break
        messages.append(tokens[:size])
        tokens = tokens[size:]
    return [*messages, tokens] if tokens else messages


def text_after(pieces: Sequence[str], rules: StopRules, sizes: Sequence[int]) -> str:
    """What is out after these pieces, none of which is the last."""
    cursor = TextCursor(PieceDecoder(pieces), rules)
    return "".join(cursor.take(message) for message in cut(range(len(pieces)), sizes))


def read_on(
    pieces: Sequence[str],
    rules: StopRules,
    match: StopMatch | None,
    skipped: int,
    sizes: Sequence[int],
) -> str:
    """The text behind the first `skipped` pieces, in messages; its end comes with a token."""
    cursor = TextCursor(PieceDecoder(pieces), rules)
    cursor.skip(range(skipped))
    upto = None if match is None else match.characters
    *messages, last = cut(range(skipped, len(pieces)), sizes)
    text = "".join(map(cursor.take, messages))
    return text + cursor.take_last(last, last_is_stop=False, upto=upto)


@settings(max_examples=300)
@given(st.lists(st.text(alphabet=FEW, max_size=4), max_size=12), all_rules, sizes, sizes)
def test_the_text_after_so_many_tokens_is_the_same_however_they_were_cut(
    pieces: list[str], rules: StopRules, some: list[int], others: list[int]
) -> None:
    assert text_after(pieces, rules, some) == text_after(pieces, rules, others)


@settings(max_examples=300)
@given(st.lists(st.text(alphabet=FEW, max_size=4), min_size=1, max_size=12), all_rules, sizes)
def test_at_every_token_the_text_before_and_the_rest_of_one_that_comes_back_join_to_the_answer(
    pieces: list[str], rules: StopRules, sizes: list[int]
) -> None:
    answer, match = naive_stop(pieces, rules)
    kept = pieces if match is None else pieces[: match.tokens_kept]
    for position in range(len(kept)):
        before = text_after(kept[:position], rules, sizes)
        assert before + read_on(kept, rules, match, position, sizes) == answer


@settings(max_examples=300)
@given(st.lists(st.text(alphabet=FEW, max_size=4), min_size=1, max_size=12), all_rules)
def test_what_is_out_is_the_answers_beginning_whatever_comes_behind(
    pieces: list[str], rules: StopRules
) -> None:
    answer, match = naive_stop(pieces, rules)
    kept = len(pieces) if match is None else match.tokens_kept - 1
    for position in range(kept + 1):
        assert answer.startswith(text_after(pieces[:position], rules, [position or 1]))


@given(st.text(alphabet=LETTERS, min_size=1, max_size=20), all_rules, st.data())
def test_bytes_in_any_cut_never_show_half_a_character(
    text: str, rules: StopRules, data: st.DataObject
) -> None:
    token_ids = list(text.encode())
    position = data.draw(st.integers(0, len(token_ids)))
    cursor, other = (TextCursor(Utf8Decoder(), rules) for _ in range(2))
    out = ""
    while token_ids[:position]:
        size = data.draw(st.integers(1, position))
        out += cursor.take(token_ids[:size])
        other.skip(token_ids[:size])
        del token_ids[:size]
        position -= size
        assert text.startswith(out)
    assert out + cursor.take_last(token_ids, last_is_stop=False) == text
    assert out + other.take_last(token_ids, last_is_stop=False) == text


@given(st.text(alphabet=FEW, max_size=30), stop_strings)
def test_held_back_text_is_shorter_than_the_longest_stop_string(
    text: str, strings: tuple[str, ...]
) -> None:
    longest = max(map(len, strings), default=1)
    cursor = TextCursor(PieceDecoder(text), StopRules(strings))
    out = 0
    for token_id in range(len(text)):
        out += len(cursor.take([token_id]))
        assert token_id + 1 - out < longest


def test_a_tail_that_could_begin_a_stop_string_is_held_until_it_cannot() -> None:
    cursor = TextCursor(PieceDecoder("abXY"), StopRules(("bcd",)))
    assert [cursor.take([token_id]) for token_id in range(3)] == ["", "", "a"]
    assert cursor.take_last([3], last_is_stop=False) == "bXY"


def test_with_the_stop_string_in_the_text_nothing_is_held_back() -> None:
    cursor = TextCursor(PieceDecoder("abcd"), StopRules(("bcd",), include_stop=True))
    assert [cursor.take([token_id]) for token_id in range(4)] == ["a", "b", "c", "d"]


def test_held_back_text_is_out_once_when_the_end_comes_without_a_token() -> None:
    cursor = TextCursor(PieceDecoder("abcd"), StopRules(("XYZ",)))
    assert cursor.take(range(4)) == "ab"
    assert cursor.take_last((), last_is_stop=False) == "cd"
    assert cursor.take_last((), last_is_stop=False) == ""


@pytest.mark.parametrize(("include_stop", "text"), [(False, "a"), (True, "ab")])
def test_a_stop_token_is_text_only_if_it_is_asked_for(include_stop: bool, text: str) -> None:
    cursor = TextCursor(PieceDecoder("ab"), StopRules(include_stop=include_stop))
    assert cursor.take_last([0, 1], last_is_stop=True) == text


def test_a_character_that_is_never_completed_is_dropped() -> None:
    cursor = TextCursor(Utf8Decoder(), StopRules())
    ids = [ord("a"), *"\u20ac".encode()[:2]]
    assert cursor.take_last(ids, last_is_stop=False) == "a"


def test_the_tail_in_which_a_stop_string_can_have_begun_is_one_less_than_the_longest() -> None:
    assert StopRules().tail == 0
    assert StopRules(("a", "abc", "ab")).tail == 2


def test_the_scripted_decoder_shows_no_end_of_text() -> None:
    assert Utf8Decoder().decode([ord("a"), END_OF_TEXT]) == "a"
