import json
from typing import Any

import pytest

from gateway_sse.openai.asked import Asked
from gateway_sse.openai.completion_request import completion
from gateway_sse.problems import Refused
from tests.gateway_sse.openai.refusals import JSON, refusal


def read(**fields: Any) -> Asked:
    return completion(JSON, json.dumps({"model": "m", "prompt": "Hi"} | fields).encode())


def test_a_request_with_nothing_but_a_prompt_has_openais_defaults() -> None:
    assert read() == Asked(
        prompt="Hi",
        options={"model": "m", "max_tokens": 16},
        choices=1,
        stream=False,
        include_usage=False,
        logprobs=False,
    )


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("Hi", "Hi"), (["Hi"], "Hi"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2]), ([[]], [])],
)
def test_a_prompt_is_text_or_token_ids_or_a_list_of_one(prompt: Any, expected: Any) -> None:
    assert read(prompt=prompt).prompt == expected


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]]])
def test_several_prompts_are_refused_by_name(prompt: Any) -> None:
    error = refusal(completion, {"model": "m", "prompt": prompt})
    assert (error["param"], error["code"]) == ("prompt", "unsupported_value")
    assert "one prompt" in error["message"]


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        (3, "prompt"),
        ({"a": 1}, "prompt"),
        (None, "prompt"),
        ([None], "prompt[0]"),
        ([1, "a"], "prompt[1]"),
        ([1.5], "prompt[0]"),
        ([True], "prompt[0]"),
        ([[1, "a"]], "prompt[0][1]"),
    ],
)
def test_what_is_no_prompt_is_refused_with_its_place(prompt: Any, param: str) -> None:
    assert refusal(completion, {"model": "m", "prompt": prompt})["param"] == param


def test_every_option_has_its_place_in_the_contract() -> None:
    same = {
        "max_tokens": 5,
        "min_tokens": 1,
        "temperature": 0.5,
        "top_p": 1,
        "top_k": 3,
        "min_p": 0.1,
        "n": 2,
        "stop": ["a", "b"],
        "stop_token_ids": [7],
        "presence_penalty": -1,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.1,
        "seed": 7,
        "logprobs": 0,
        "ignore_eos": True,
        "skip_special_tokens": False,
        "priority": "high",
        "max_delay_ms": 0,
        "max_tokens_per_message": 4,
        "reading_tokens_per_second": 4.8,
    }
    renamed = {"logit_bias": {"7": -1}, "include_stop_str_in_output": True}
    asked = read(**same, **renamed, stream=True, stream_options={"include_usage": True})
    assert asked.options == {
        "model": "m",
        **same,
        "logit_bias": {7: -1},
        "include_stop": True,
    }
    assert (asked.choices, asked.stream, asked.include_usage, asked.logprobs) == (
        2,
        True,
        True,
        True,
    )


def test_null_is_not_set() -> None:
    nothing = dict.fromkeys(
        (
            "max_tokens",
            "temperature",
            "n",
            "stop",
            "logprobs",
            "logit_bias",
            "stream",
            "echo",
            "best_of",
            "suffix",
            "user",
            "response_format",
            "stream_options",
            "seed",
            "priority",
        ),
    )
    assert read(**nothing) == read()


@pytest.mark.parametrize(
    "harmless",
    [
        {"echo": False},
        {"suffix": ""},
        {"best_of": 1},
        {"best_of": 3, "n": 3},
        {"user": "me"},
        {"response_format": {"type": "text"}},
    ],
)
def test_what_changes_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert read(**harmless).options == read(n=harmless.get("n")).options


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"echo": True}, "echo", "unsupported_parameter"),
        ({"echo": 0}, "echo", "unsupported_parameter"),
        ({"suffix": "x"}, "suffix", "unsupported_parameter"),
        ({"best_of": 2}, "best_of", "unsupported_value"),
        ({"max_token": 3}, "max_token", "unknown_parameter"),
        ({"n": "2"}, "n", "invalid_type"),
        ({"n": 2.5}, "n", "invalid_type"),
        ({"n": True}, "n", "invalid_type"),
        ({"temperature": "warm"}, "temperature", "invalid_type"),
        ({"temperature": float("nan")}, "temperature", "invalid_type"),
        ({"stop": 3}, "stop", "invalid_type"),
        ({"stop": ["a", 3]}, "stop[1]", "invalid_type"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"logprobs": 21}, "logprobs", "invalid_value"),
        ({"logprobs": -1}, "logprobs", "invalid_value"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": "x"}}, "logit_bias.1", "invalid_type"),
        ({"logit_bias": [1]}, "logit_bias", "invalid_type"),
        ({"priority": "asap"}, "priority", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        (
            {"stream": True, "stream_options": {"usage": True}},
            "stream_options.usage",
            "unknown_parameter",
        ),
        ({"model": None}, "model", "invalid_type"),
        ({"model": 3}, "model", "invalid_type"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(
    fields: dict[str, Any], param: str, code: str
) -> None:
    error = refusal(completion, {"model": "m", "prompt": "Hi"} | fields)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(f"{param}: ")


def test_what_is_missing_is_named() -> None:
    assert refusal(completion, {"prompt": "Hi"})["param"] == "model"
    assert refusal(completion, {"model": "m"})["param"] == "prompt"


def test_an_unknown_field_that_is_nearly_a_known_one_gets_a_hint() -> None:
    error = refusal(completion, {"model": "m", "prompt": "Hi", "max_token": 3})
    assert error["message"] == "max_token: unknown field; did you mean max_tokens?"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"3",
        b"null",
        b"\xff",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"[" * 500,
        b'{"n": ' + b"1" * 5000 + b"}",
    ],
)
def test_a_body_that_is_no_json_object_is_malformed(body: bytes) -> None:
    error = refusal(completion, body)
    assert (error["param"], error["code"]) == (None, "malformed_json")


def test_another_content_type_is_415() -> None:
    with pytest.raises(Refused) as refused:
        completion("text/plain", b"{}")
    assert refused.value.problem.status == 415
    assert completion("Application/JSON; charset=utf-8", b'{"model":"m","prompt":"Hi"}')


def test_a_json_schema_is_passed_on_as_text() -> None:
    schema = {"type": "object", "properties": {"é": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    text = read(response_format=wanted).options["json_schema"]
    assert text is not None
    assert json.loads(text) == schema
    assert "é" in text


def test_other_forms_of_output_are_passed_on() -> None:
    assert read(response_format={"type": "json_object"}).options["json_object"] is True
    assert read(structured_outputs={"regex": "a+"}).options["regex"] == "a+"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"minimum": float("inf")}},
                }
            },
            "response_format.json_schema.schema",
        ),
        (
            {
                "response_format": {
                    "type": "json_object",
                    "json_schema": {"name": "x", "schema": {}},
                }
            },
            "response_format.json_schema",
        ),
        (
            {
                "response_format": {"type": "json_object"},
                "structured_outputs": {"regex": "a"},
            },
            "structured_outputs",
        ),
    ],
)
def test_a_form_of_output_that_makes_no_sense_is_refused(
    fields: dict[str, Any], param: str
) -> None:
    assert refusal(completion, {"model": "m", "prompt": "Hi"} | fields)["param"] == param
