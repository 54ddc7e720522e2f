"""Reading requests, without a server."""

import json
import re
from typing import Any

import pytest

from gateway_sse.native.request import StreamRequest, from_body, from_query
from gateway_sse.problems import Refused
from tokenstream_client import GenerateOptions


def body(**values: Any) -> bytes:
    return json.dumps(values).encode()


def read(**values: Any) -> Any:
    return from_body("application/json", body(**values))


def test_the_fields_are_those_of_the_client_the_prompts_and_the_bridges_own() -> None:
    of_the_client = set(GenerateOptions.__annotations__)
    on_openais_paths = {"n", "logprobs", "logit_bias"}
    assert of_the_client - on_openais_paths <= set(StreamRequest.model_fields)
    assert {"prompt", "token_ids", "messages", "ack_window"} <= set(StreamRequest.model_fields)


def test_a_charset_in_the_content_type_is_fine() -> None:
    arguments = from_body("Application/JSON; charset=utf-8", body(prompt="Hi"))
    assert arguments.prompt == "Hi"


def test_null_is_not_set() -> None:
    assert read(prompt="Hi", token_ids=None, max_tokens=None).options == {}


def test_an_integer_is_a_number_but_true_is_no_integer() -> None:
    assert read(prompt="Hi", temperature=1).options == {"temperature": 1}
    with pytest.raises(Refused, match="max_tokens: must be an integer"):
        read(prompt="Hi", max_tokens=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "Hi", "max_tokens": "5"}, "max_tokens: must be an integer"),
        ({"prompt": "Hi", "max_tokens": 5.0}, "max_tokens: must be an integer"),
        ({"prompt": "Hi", "temperature": "hot"}, "temperature: must be a number"),
        ({"prompt": "Hi", "ignore_eos": 1}, "ignore_eos: must be true or false"),
        ({"prompt": "Hi", "stop": 1}, "stop: must be text or a list"),
        ({"prompt": "Hi", "stop": ["a", 1]}, "stop[1]: must be text"),
        ({"prompt": "Hi", "stop_token_ids": 1}, "stop_token_ids: must be a list"),
        ({"prompt": ["Hi"]}, "prompt: must be text"),
        ({"token_ids": [1, "1"]}, "token_ids[1]: must be an integer"),
        ({}, "exactly one of prompt, token_ids and messages"),
        ({"prompt": "Hi", "token_ids": [1]}, "exactly one of prompt, token_ids and messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: is missing"),
        (
            {"messages": [{"role": "user", "content": "a", "nam": "b"}]},
            "messages[0].nam: unknown field",
        ),
        ({"prompt": "Hi", "priority": "top"}, 'priority: must be "low", "normal" or "high"'),
        (
            {"prompt": "Hi", "ack_window": 0},
            "ack_window: input should be greater than or equal to 1",
        ),
        ({"prompt": "Hi", "max_token": 1}, "did you mean max_tokens?"),
        ({"prompt": "Hi", "temprature": 1}, "did you mean temperature?"),
        ({"prompt": "Hi", "zzz": 1}, "unknown field; known are "),
    ],
)
def test_a_refusal_names_the_field_and_what_it_takes(values: Any, message: str) -> None:
    with pytest.raises(Refused) as caught:
        read(**values)
    assert message in str(caught.value)
    (violation,) = caught.value.problem.field_violations
    assert re.split(r"[.\[]", violation.field)[0] in {*values, "prompt"}


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "Hi", "temperature": NaN}',
        '{"prompt": "Hi", "max_tokens": ' + "9" * 5000 + "}",
        '{"prompt": ' + "[" * 100_000,
    ],
)
def test_json_that_python_reads_too_willingly_or_not_at_all_is_malformed(text: str) -> None:
    with pytest.raises(Refused) as caught:
        from_body("application/json", text.encode())
    assert caught.value.problem.reason == "MALFORMED_JSON"


def test_a_number_too_large_to_be_finite_is_refused() -> None:
    with pytest.raises(Refused, match="temperature: must be a number"):
        from_body("application/json", b'{"prompt": "Hi", "temperature": 1e999}')


def test_a_query_has_lists_by_repetition_and_ids_by_comma() -> None:
    arguments = from_query(
        [("token_ids", "1,2"), ("token_ids", "3"), ("stop", "a"), ("include_stop", "0")]
    )
    assert arguments.prompt == [1, 2, 3]
    assert arguments.options == {"stop": ["a"], "include_stop": False}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("prompt", "a"), ("prompt", "b")], "prompt: given more than once"),
        ([("prompt", "a"), ("seed", "1.5")], "seed: must be an integer"),
        ([("prompt", "a"), ("top_p", "nan")], "top_p: must be a number"),
        ([("prompt", "a"), ("ignore_eos", "yes")], "ignore_eos: must be true or false"),
        ([("token_ids", "1,,2")], "token_ids[1]: must be an integer"),
        ([("promt", "a")], "did you mean prompt?"),
    ],
)
def test_a_query_is_checked_as_a_body_is(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(Refused) as caught:
        from_query(pairs)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"token_ids": ["x"] * 200_000},
        {"stop": [1] * 200_000, "prompt": "Hi"},
        {"prompt": "Hi", **{f"unknown_{i}": 1 for i in range(50_000)}},
        {"messages": [{"role": 1}] * 100_000},
    ],
)
def test_of_a_body_full_of_faults_only_a_few_are_looked_at(values: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        from_body("application/json", json.dumps(values).encode())
    assert len(refused.value.problem.field_violations) <= 16
