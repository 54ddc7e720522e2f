from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from service.stream.stop_strings import StopMatch, StopWatch
from service.stream.text import StopRules
from tests.stream.by_hand import PieceDecoder, naive_stop

FEW = "ab\u20ac"  # so few that stop strings meet, overlap and repeat


def watched(pieces: Sequence[str], rules: StopRules, sizes: Sequence[int]) -> StopMatch | None:
    """Feed the pieces in groups of these sizes; a match's tokens are counted from the first."""
    watch, fed = StopWatch(PieceDecoder(pieces), rules), 0
    for size in sizes:
        match = watch.feed(range(fed, min(fed + size, len(pieces))))
        if match is not None:
            return StopMatch(match.string, fed + match.tokens_kept, match.characters)
        fed += size
    return None


@settings(max_examples=500)
@given(
    pieces=st.lists(st.text(alphabet=FEW, max_size=4), max_size=14),
    strings=st.lists(st.text(alphabet=FEW, min_size=1, max_size=4), max_size=4),
    min_tokens=st.integers(0, 5),
    include_stop=st.booleans(),
    sizes=st.lists(st.integers(1, 4), min_size=14, max_size=14),
)
def test_any_tokens_in_any_steps_end_where_a_search_of_the_whole_text_ends_them(
    pieces: list[str],
    strings: list[str],
    min_tokens: int,
    include_stop: bool,
    sizes: list[int],
) -> None:
    rules = StopRules(tuple(strings), min_tokens, include_stop)
    assert watched(pieces, rules, sizes) == naive_stop(pieces, rules)[1]


def test_of_two_stop_strings_that_end_together_the_first_in_the_list_counts() -> None:
    assert watched("xab", StopRules(("b", "ab")), [3]) == StopMatch("b", 3, 2)
    assert watched("xab", StopRules(("ab", "b")), [3]) == StopMatch("ab", 3, 1)


def test_the_stop_string_that_completes_first_counts_even_if_it_began_later() -> None:
    assert watched(["abcd"], StopRules(("abcd", "bc")), [1]) == StopMatch("bc", 1, 1)


def test_a_stop_string_inside_the_first_min_tokens_is_text() -> None:
    rules = StopRules(("ab",), min_tokens=2)
    assert watched("abab", rules, [2, 2]) == StopMatch("ab", 4, 2)


def test_a_stop_string_that_begins_within_min_tokens_and_ends_behind_them_counts() -> None:
    assert watched("xab", StopRules(("ab",), min_tokens=2), [3]) == StopMatch("ab", 3, 1)


def test_tokens_behind_the_match_in_the_same_step_are_not_part_of_the_answer() -> None:
    match = watched(["a", "STOP", "b"], StopRules(("STOP",)), [3])
    assert match == StopMatch("STOP", 2, 1)


def test_text_behind_the_match_in_the_same_token_is_not_part_of_the_answer() -> None:
    pieces = ["a", "bSTOPc"]
    assert watched(pieces, StopRules(("STOP",)), [2]) == StopMatch("STOP", 2, 2)
    with_it = StopRules(("STOP",), include_stop=True)
    assert watched(pieces, with_it, [2]) == StopMatch("STOP", 2, 6)


def test_a_stop_token_is_searched_only_if_it_is_text() -> None:
    for include_stop in (False, True):
        rules = StopRules(("ab",), include_stop=include_stop)
        match = StopWatch(PieceDecoder("ab"), rules).feed([0, 1], last_is_stop=True)
        assert (match is not None) is include_stop


def test_characters_are_counted_from_the_answers_first_however_far_back_that_is() -> None:
    pieces = ["x"] * 5000 + ["EN", "D"]
    sizes = [7] * (len(pieces) // 7 + 1)
    assert watched(pieces, StopRules(("END",)), sizes) == StopMatch("END", 5002, 5000)
