from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.scripted import END_OF_TEXT, Utf8Decoder
from service.stream.text import StopMatch, StopRules, TextAssembler

# One to four bytes each.
LETTERS = "ab\u00e9\u20ac\U0001f600"
# Very few, so that stop strings meet, overlap and repeat.
FEW = "ab\u20ac"

EVERYTHING = 1 << 30  # tokens

texts = st.text(alphabet=LETTERS, max_size=30)
stop_strings = st.lists(st.text(alphabet=FEW, min_size=1, max_size=4), max_size=4, unique=True).map(
    tuple
)


class PieceDecoder:
    """Token i of a fixed list of pieces; several characters at once, or none, come out."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self._pieces = pieces

    def decode(self, token_id: int) -> str:
        return self._pieces[token_id]


def naive(pieces: Sequence[str], rules: StopRules) -> tuple[str, StopMatch | None]:
    """Decode all of it token by token; after each, look for a stop string in all of the text."""
    text = ""
    for position, piece in enumerate(pieces):
        before, text = len(text), text + piece
        if not piece or position < rules.min_tokens:
            continue
        # Every way in which a stop string ends inside this piece, by where it ends.
        ends = [
            (end, order, string)
            for end in range(before + 1, len(text) + 1)
            for order, string in enumerate(rules.strings)
            if text[:end].endswith(string)
        ]
        if ends:
            end, _, string = min(ends)  # at the same end, the first in the list
            kept = end if rules.include_stop else end - len(string)
            return text[:kept], StopMatch(string, position + 1)
    return text, None


def assembled(
    pieces: Sequence[str], rules: StopRules, sizes: Sequence[int], takes: Sequence[bool]
) -> tuple[str, StopMatch | None]:
    """Feed the pieces in groups of these sizes, and take in between where told to."""
    assembler = TextAssembler(PieceDecoder(pieces), rules)
    out, fed, match = "", 0, None
    for size, take in zip(sizes, takes, strict=True):
        match = assembler.feed(range(fed, min(fed + size, len(pieces))))
        if match is not None:
            match = StopMatch(match.string, fed + match.tokens_kept)
            break
        fed = min(fed + size, len(pieces))
        if take:
            out += assembler.take(EVERYTHING, final=False)
    return out + assembler.take(EVERYTHING, final=True), match


@st.composite
def feedings(draw: st.DrawFn, pieces: int) -> tuple[list[int], list[bool]]:
    sizes: list[int] = []
    while sum(sizes) < pieces:
        sizes.append(draw(st.integers(1, 4)))
    return sizes, draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], StopRules, list[int], list[bool]]:
    pieces = draw(st.lists(st.text(alphabet=FEW, max_size=4), max_size=12))
    rules = StopRules(draw(stop_strings), draw(st.integers(0, 4)), draw(st.booleans()))
    return pieces, rules, *draw(feedings(len(pieces)))


@settings(max_examples=300)
@given(cases())
def test_any_split_and_any_takes_give_what_a_search_of_the_whole_text_gives(
    case: tuple[list[str], StopRules, list[int], list[bool]],
) -> None:
    pieces, rules, sizes, takes = case
    assert assembled(pieces, rules, sizes, takes) == naive(pieces, rules)


@given(texts, st.data())
def test_bytes_fed_in_any_split_never_show_half_a_character(text: str, data: st.DataObject) -> None:
    token_ids = list(text.encode())
    sizes, takes = data.draw(feedings(len(token_ids)))
    assembler = TextAssembler(Utf8Decoder(), StopRules())
    out = ""
    for size, take in zip(sizes, takes, strict=True):
        assembler.feed(token_ids[:size])
        del token_ids[:size]
        if take:
            out += assembler.take(EVERYTHING, final=False)
            assert text.startswith(out)
    assert out + assembler.take(EVERYTHING, final=True) == text


@given(st.text(alphabet=FEW, max_size=30), stop_strings, st.booleans())
def test_what_was_taken_is_never_taken_back_by_a_later_stop_string(
    text: str, strings: tuple[str, ...], include_stop: bool
) -> None:
    rules = StopRules(strings, include_stop=include_stop)
    expected, _ = naive(list(text), rules)
    assembler = TextAssembler(PieceDecoder(text), rules)
    out = ""
    for token_id in range(len(text)):
        match = assembler.feed([token_id])
        out += assembler.take(EVERYTHING, final=False)
        assert expected.startswith(out)
        if match is not None:
            break


@given(st.text(alphabet=FEW, max_size=30), stop_strings)
def test_held_back_text_is_shorter_than_the_longest_stop_string(
    text: str, strings: tuple[str, ...]
) -> None:
    assembler = TextAssembler(PieceDecoder(text), StopRules(strings))
    longest = max(map(len, strings), default=1)
    out = ""
    for token_id in range(len(text)):
        if assembler.feed([token_id]) is not None:
            break
        out += assembler.take(EVERYTHING, final=False)
        assert token_id + 1 - len(out) < longest


def test_a_tail_that_could_begin_a_stop_string_is_held_until_it_cannot() -> None:
    assembler = TextAssembler(PieceDecoder("abX"), StopRules(("bcd",)))
    assembler.feed([0, 1])
    assert assembler.take(EVERYTHING, final=False) == ""
    assembler.feed([2])
    assert assembler.take(EVERYTHING, final=False) == "a"
    assert assembler.take(EVERYTHING, final=True) == "bX"


def test_with_the_stop_string_in_the_text_nothing_is_held_back() -> None:
    assembler = TextAssembler(PieceDecoder("abcd"), StopRules(("bcd",), include_stop=True))
    out = []
    for token_id in range(4):
        assembler.feed([token_id])
        out.append(assembler.take(EVERYTHING, final=False))
    assert out == ["a", "b", "c", "d"]


def test_of_two_stop_strings_that_end_together_the_first_in_the_list_counts() -> None:
    assembler = TextAssembler(PieceDecoder("xab"), StopRules(("b", "ab")))
    assert assembler.feed([0, 1, 2]) == StopMatch("b", 3)
    assert assembler.take(EVERYTHING, final=True) == "xa"


def test_a_stop_string_inside_the_first_min_tokens_is_text() -> None:
    assembler = TextAssembler(PieceDecoder("abab"), StopRules(("ab",), min_tokens=2))
    assert assembler.feed([0, 1]) is None
    assert assembler.feed([2, 3]) == StopMatch("ab", 2)
    assert assembler.take(EVERYTHING, final=True) == "ab"


def test_a_stop_string_that_begins_within_min_tokens_and_ends_behind_them_counts() -> None:
    assembler = TextAssembler(PieceDecoder("xab"), StopRules(("ab",), min_tokens=2))
    assert assembler.feed([0, 1, 2]) == StopMatch("ab", 3)
    assert assembler.take(EVERYTHING, final=True) == "x"


def test_tokens_behind_the_match_in_the_same_step_are_not_part_of_the_answer() -> None:
    assembler = TextAssembler(PieceDecoder(["a", "STOP", "b"]), StopRules(("STOP",)))
    assert assembler.feed([0, 1, 2]) == StopMatch("STOP", 2)
    assert assembler.take(EVERYTHING, final=True) == "a"


@pytest.mark.parametrize(("include_stop", "text"), [(False, "a"), (True, "ab")])
def test_a_stop_token_is_text_only_if_it_is_asked_for(include_stop: bool, text: str) -> None:
    assembler = TextAssembler(PieceDecoder("ab"), StopRules(include_stop=include_stop))
    assembler.feed([0, 1], last_is_stop=True)
    assert assembler.take(EVERYTHING, final=True) == text


def test_a_character_that_is_never_completed_is_dropped() -> None:
    assembler = TextAssembler(Utf8Decoder(), StopRules())
    assembler.feed([ord("a"), *"\u20ac".encode()[:2]])
    assert assembler.take(EVERYTHING, final=True) == "a"


def test_the_scripted_decoder_shows_no_end_of_text() -> None:
    assert Utf8Decoder().decode(END_OF_TEXT) == ""
