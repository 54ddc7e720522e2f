"""Bounds of what a request says of its tokens."""

import dataclasses
import math
from typing import Any

import pytest

from service.admission import validation
from service.domain import (
    SamplingOptions,
    StructuredOutput,
    TokensPrompt,
)
from service.errors import InvalidRequest
from tests.admission.requests import (
    INF,
    MODEL,
    NAN,
    NO_TOKENIZER,
    bad_fields,
    request,
)

INSIDE = [
    ("max_tokens", 1),
    ("max_tokens", 99),
    ("min_tokens", 0),
    ("min_tokens", 99),
    ("temperature", 0.0),
    ("temperature", 2.0),
    ("top_p", 5e-324),
    ("top_p", 1.0),
    ("top_k", 0),
    ("top_k", 2**31 - 1),
    ("min_p", 0.0),
    ("min_p", 1.0),
    ("presence_penalty", -2.0),
    ("presence_penalty", 2.0),
    ("frequency_penalty", -2.0),
    ("frequency_penalty", 2.0),
    ("repetition_penalty", 5e-324),
    ("repetition_penalty", 10.0),
    ("seed", 0),
    ("seed", 2**63 - 1),
    ("n", 1),
    ("n", 16),
    ("stop", ("s",) * 16),
    ("stop", ("s" * 256,)),
    ("stop_token_ids", (0, 49)),
    ("stop_token_ids", (1,) * 128),
    ("logprobs", 0),
    ("logprobs", 20),
    ("logit_bias", {0: -100.0, 49: 100.0}),
    ("structured_output", StructuredOutput(json_object=True)),
    ("structured_output", StructuredOutput(json_schema="s" * 2**16)),
    ("structured_output", StructuredOutput(regex="r" * 2**12)),
    ("structured_output", StructuredOutput(regex=" ")),
]
FLOATS = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
OUTSIDE = [
    ("n", 0),
    ("n", 17),
    ("n", 2**32 - 1),
    ("max_tokens", 0),
    ("max_tokens", 100),
    ("min_tokens", 100),
    ("temperature", math.nextafter(0, -1)),
    ("temperature", math.nextafter(2, 3)),
    ("top_p", 0.0),
    ("top_p", -0.0),
    ("top_p", math.nextafter(1, 2)),
    ("top_k", 2**31),
    ("min_p", math.nextafter(0, -1)),
    ("min_p", math.nextafter(1, 2)),
    ("presence_penalty", math.nextafter(-2, -3)),
    ("presence_penalty", math.nextafter(2, 3)),
    ("frequency_penalty", math.nextafter(-2, -3)),
    ("frequency_penalty", math.nextafter(2, 3)),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", math.nextafter(10, 11)),
    ("seed", -1),
    ("seed", 2**63),
    ("stop", ("s",) * 17),
    ("stop_token_ids", (50,)),
    ("stop_token_ids", (-1,)),
    ("stop_token_ids", (1,) * 129),
    ("logprobs", 21),
    ("logit_bias", {50: 1.0}),
    *((name, value) for name in FLOATS for value in (NAN, INF, -INF)),
]


@pytest.mark.parametrize(("name", "value"), INSIDE)
def test_a_value_on_its_bound_is_taken(name: str, value: Any) -> None:
    assert bad_fields(request(**{name: value})) == []


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_value_behind_its_bound_is_refused_by_name(name: str, value: Any) -> None:
    assert bad_fields(request(**{name: value})) == [f"sampling.{name}"]


def test_every_option_with_a_bound_is_tried_on_both_sides() -> None:
    unbounded = {"ignore_eos", "skip_special_tokens", "include_stop"}
    names = {f.name for f in dataclasses.fields(SamplingOptions)} - unbounded
    assert {name for name, _ in INSIDE} == names
    assert {name for name, _ in OUTSIDE} == names - {"structured_output"}  # see BAD_FORMS


BAD_FORMS = [
    (StructuredOutput(), ""),
    (StructuredOutput(json_object=False), ".json_object"),
    (StructuredOutput(json_schema=""), ".json_schema"),
    (StructuredOutput(json_schema="s" * (2**16 + 1)), ".json_schema"),
    (StructuredOutput(json_schema="\u20ac" * 2**15), ".json_schema"),
    (StructuredOutput(json_schema="a\0b"), ".json_schema"),
    (StructuredOutput(regex=""), ".regex"),
    (StructuredOutput(regex="r" * (2**12 + 1)), ".regex"),
    (StructuredOutput(regex="a\0b"), ".regex"),
]


@pytest.mark.parametrize(("form", "path"), BAD_FORMS)
def test_a_form_that_is_none_is_refused_by_name(form: StructuredOutput, path: str) -> None:
    assert bad_fields(request(structured_output=form)) == ["sampling.structured_output" + path]


def test_a_form_does_not_go_with_a_least_number_of_tokens() -> None:
    form = StructuredOutput(json_object=True)
    assert bad_fields(request(structured_output=form, min_tokens=0)) == []
    assert bad_fields(request(structured_output=form, min_tokens=1)) == ["sampling.min_tokens"]


def test_a_form_needs_a_tokenizer() -> None:
    prompt = TokensPrompt((1,))
    refused = request(prompt, structured_output=StructuredOutput(regex="a"))
    assert bad_fields(refused, NO_TOKENIZER) == ["sampling.structured_output.regex"]


@pytest.mark.parametrize("bias", [-100.1, 100.1, NAN, INF, -INF])
def test_a_bias_behind_its_bound_is_refused_by_its_tokens_name(bias: float) -> None:
    assert bad_fields(request(logit_bias={1: 1.0, 7: bias, 8: bias})) == ["sampling.logit_bias[7]"]


def test_biases_have_a_most() -> None:
    model = dataclasses.replace(MODEL, vocab_size=2000)
    assert bad_fields(request(logit_bias=dict.fromkeys(range(1024), 1.0)), model) == []
    too_many = request(logit_bias=dict.fromkeys(range(1025), 1.0))
    assert bad_fields(too_many, model) == ["sampling.logit_bias"]


@pytest.mark.parametrize("most", [0, 5])
def test_an_engine_may_tell_fewer_log_probabilities(most: int) -> None:
    model = dataclasses.replace(MODEL, max_logprobs=most)
    assert bad_fields(request(logprobs=most), model) == []
    assert bad_fields(request(logprobs=most + 1), model) == ["sampling.logprobs"]


def test_min_tokens_above_max_tokens_are_refused_by_name() -> None:
    assert bad_fields(request(min_tokens=5, max_tokens=5)) == []
    assert bad_fields(request(min_tokens=6, max_tokens=5)) == ["sampling.min_tokens"]


def test_every_bad_stop_string_is_named_by_its_place() -> None:
    assert bad_fields(request(stop=("a", "", "b", "c" * 257))) == [
        "sampling.stop[1]",
        "sampling.stop[3]",
    ]


def test_the_last_choices_seed_must_be_one_too() -> None:
    assert bad_fields(request(n=3, seed=2**63 - 3)) == []
    assert bad_fields(request(n=3, seed=2**63 - 2)) == ["sampling.seed"]
    assert bad_fields(request(n=3, seed=2**63)) == ["sampling.seed"]


def test_more_choices_than_places_are_refused_by_name() -> None:
    validation.check_places(3, 3)
    with pytest.raises(InvalidRequest) as refused:
        validation.check_places(4, 3)
    assert [v.field for v in refused.value.violations] == ["sampling.n"]
