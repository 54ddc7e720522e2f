"""What is checked of a request as a whole."""

import pytest

from service.admission import validation
from service.domain import (
    DeliveryOptions,
    GenerationRequest,
    Priority,
    SamplingOptions,
    TextPrompt,
)
from service.errors import ModelNotFound
from tests.admission.requests import LIMIT, MODEL, NAN, bad_fields


def test_the_callers_own_id_has_a_length() -> None:
    assert bad_fields(GenerationRequest(TextPrompt("x"), client_request_id="i" * 128)) == []
    too_long = GenerationRequest(TextPrompt("x"), client_request_id="i" * 129)
    assert bad_fields(too_long) == ["client_request_id"]


def test_all_bad_fields_are_reported_at_once() -> None:
    request = GenerationRequest(
        None,
        sampling=SamplingOptions(
            max_tokens=0, temperature=NAN, top_p=0.0, stop=("", "x" * 999), stop_token_ids=(999,)
        ),
        delivery=DeliveryOptions(2.0, 0),
        client_request_id="x" * 999,
    )
    assert bad_fields(request) == [
        "prompt",
        "sampling.max_tokens",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.stop[0]",
        "sampling.stop[1]",
        "sampling.stop_token_ids",
        "stream.max_delay_ms",
        "stream.max_tokens_per_message",
        "client_request_id",
    ]


@pytest.mark.parametrize("name", ["", "m"])
def test_the_served_model_may_be_named_or_not(name: str) -> None:
    validation.check_model(name, MODEL)
    assert bad_fields(GenerationRequest(TextPrompt("x"), model=name)) == []


def test_another_model_is_not_found_whatever_else_is_wrong() -> None:
    with pytest.raises(ModelNotFound, match="'other'"):
        validation.check_request(GenerationRequest(None, model="other"), MODEL, LIMIT)


def test_a_models_name_of_a_megabyte_is_not_repeated() -> None:
    with pytest.raises(ModelNotFound) as refused:
        validation.check_model("x" * 2**20, MODEL)
    assert len(str(refused.value)) < 300


def test_a_message_may_be_as_large_as_the_limit_and_not_larger() -> None:
    assert bad_fields(GenerationRequest(TextPrompt("x"), size_bytes=LIMIT)) == []
    assert bad_fields(GenerationRequest(TextPrompt("x"), size_bytes=LIMIT + 1)) == [""]


def test_a_priority_that_is_newer_than_the_service_is_refused() -> None:
    assert bad_fields(GenerationRequest(TextPrompt("x"), priority=Priority.HIGH)) == []
    assert bad_fields(GenerationRequest(TextPrompt("x"), priority=Priority.UNKNOWN)) == ["priority"]
