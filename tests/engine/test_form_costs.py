import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import StructuredOutput
from service.engine.form_costs import MOST, _worth, why_too_costly

TOO_MANY = "repeats something more than 20000 times in all"


def of_schema(schema: object) -> str:
    return why_too_costly(StructuredOutput(json_schema=json.dumps(schema)))


@pytest.mark.parametrize(
    ("regex", "worth"),
    [
        ("", 0),
        ("abc", 3),
        ("a{20000}", 20000),
        ("(ab){3}c", 7),
        ("(?:a{10}){10}b", 111),
        ("[a-z]{3,10}", 10),
        (r"[a\]{9}]{2}", 2),
        ("[[:alpha:]]{2}", 2),
        (r"\{9999}", 6),
        (r"\p{Greek}{5}", 5),
        (r"\x{1F600}{5}", 5),
        ("a{,7}", 7),
        ("a{7,}", 7),
        ("a{}", 3),
        ("{5}", 0),
        ("a*b+c?d|e", 5),
        (")(", 1),
    ],
)
def test_counts_multiply_what_is_before_them(regex: str, worth: int) -> None:
    assert _worth(regex) == worth


@pytest.mark.parametrize(
    "regex",
    [
        "a{20001}",
        "((a{1000}){1000}){1000}",
        "a{999999999999999999999}",
        "(a|b){10001}",
        "a{0,30000}",
    ],
)
def test_a_regular_expression_that_repeats_too_much_is_not_tried(regex: str) -> None:
    assert why_too_costly(StructuredOutput(regex=regex)) == TOO_MANY
    assert of_schema({"items": {"pattern": regex}}) == TOO_MANY
    assert of_schema({"patternProperties": {regex: {}}}) == TOO_MANY


def test_comments_could_hide_brackets_so_there_are_none() -> None:
    assert "flag x" in why_too_costly(StructuredOutput(regex="(?x)#[\na{1000000}#]"))
    assert "flag x" in why_too_costly(StructuredOutput(regex="(?ix:a)"))


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"maxItems": 20000}, ""),
        ({"maxItems": 20001}, TOO_MANY),
        ({"anyOf": [{"minItems": 10000}, {"maxItems": 10001}]}, TOO_MANY),
        ({"minProperties": 1e300}, TOO_MANY),
        ({"maxLength": 10**9}, ""),
        ({"properties": {"maxItems": {"type": "string"}}}, ""),
        ([], "is not a JSON object"),
        ("text", "is not a JSON object"),
        ({"const": float("nan")}, "is not JSON"),
    ],
)
def test_counts_in_a_schema_add_up(schema: object, why: str) -> None:
    assert of_schema(schema) == why


@pytest.mark.parametrize("depth", [62, 63, 64, 65, 60_000])
def test_a_schema_is_nested_so_deep_and_no_deeper(depth: int) -> None:
    schema = '{"not":' * depth + "{}" + "}" * depth
    why = why_too_costly(StructuredOutput(json_schema=schema))
    assert why == ("" if depth < 64 else "is nested more than 64 deep")


@given(st.text(st.sampled_from("ab()[]{}\\|*1,?^-p"), max_size=60))
def test_any_text_is_added_up_without_an_error(text: str) -> None:
    assert _worth(text) >= 0


@given(
    st.recursive(
        st.sampled_from(["a", "[bc]", r"\d"]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, st.integers(1, 9)).map(lambda p: f"(?:{p[0]}){{{p[1]}}}"),
        ),
        max_leaves=8,
    )
)
def test_a_regex_is_worth_at_least_what_it_matches(regex: str) -> None:
    longest = regex
    while (unrolled := re.sub(r"\(\?:([^()]*)\)\{(\d)\}", _unroll, longest)) != longest:
        longest = unrolled
    assert MOST > _worth(regex) >= len(re.sub(r"\[bc\]|\\d", "x", longest)) or _worth(regex) > MOST


def _unroll(match: "re.Match[str]") -> str:
    return match[1] * int(match[2])
