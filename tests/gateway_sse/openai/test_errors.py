import pytest

from gateway_sse.openai.errors import body_of, is_openai_path
from gateway_sse.problems import Problem
from tokenstream_client import FieldViolation


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/completions", True),
        ("/v1/chat/completions", True),
        ("/v1/models", True),
        ("/v1/models/org/name", True),
        ("/v1/embeddings", True),
        ("/v1/completions/stream", False),
        ("/v1/completions/ws", False),
        ("/v1/streams/abc", False),
        ("/v1/perceived", False),
        ("/readyz", False),
        ("/", False),
    ],
)
def test_all_paths_of_the_version_are_openais_but_for_our_own(path: str, expected: bool) -> None:
    assert is_openai_path(path) is expected


# Status, the service's reason; OpenAI's type and code.
@pytest.mark.parametrize(
    ("status", "reason", "kind", "code"),
    [
        (400, "MALFORMED_JSON", "invalid_request_error", "malformed_json"),
        (401, "UNAUTHENTICATED", "invalid_request_error", "invalid_api_key"),
        (403, "KEY_NOT_PASSED_ON", "invalid_request_error", "key_not_passed_on"),
        (404, "MODEL_NOT_FOUND", "invalid_request_error", "model_not_found"),
        (405, "HTTP_405", "invalid_request_error", "method_not_supported"),
        (413, "BODY_TOO_LARGE", "invalid_request_error", "request_too_large"),
        (415, "UNSUPPORTED_MEDIA_TYPE", "invalid_request_error", "unsupported_content_type"),
        (429, "TOO_MANY_STREAMS", "requests", "rate_limit_exceeded"),
        (500, "ENGINE_FAILED", "server_error", "engine_failed"),
        (503, "ENGINE_LOADING", "server_error", "engine_loading"),
        (504, "DEADLINE_EXCEEDED", "server_error", "deadline_exceeded"),
        (500, "", "server_error", None),
    ],
)
def test_types_and_codes_are_openais(status: int, reason: str, kind: str, code: str | None) -> None:
    error = body_of(Problem(status, "X", reason, "why"))["error"]
    assert (error["type"], error["code"], error["message"]) == (kind, code, "why")


def test_an_unknown_model_is_the_fault_of_the_field_model() -> None:
    problem = Problem(404, "NOT_FOUND", "MODEL_NOT_FOUND", "no such model")
    assert body_of(problem)["error"]["param"] == "model"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("sampling.top_p", "top_p"),
        ("top_p", "top_p"),
        ("stream.max_delay_ms", "max_delay_ms"),
        ("text", "prompt"),
        ("prompt", "prompt"),
        ("token_ids.ids[3]", "prompt[3]"),
        ("token_ids[3]", "prompt[3]"),
        ("chat.messages[1].role", "messages[1].role"),
        ("messages[1].role", "messages[1].role"),
        ("chat", "messages"),
        ("sampling.include_stop", "include_stop_str_in_output"),
        ("sampling.structured_output.json_schema", "response_format.json_schema"),
        ("sampling.structured_output.regex", "structured_outputs.regex"),
        ("sampling.logit_bias[7]", "logit_bias[7]"),
        ("", None),
    ],
)
def test_the_contracts_fields_have_openais_names(field: str, param: str | None) -> None:
    problem = Problem(
        400, "INVALID_ARGUMENT", "INVALID_REQUEST", "?", (FieldViolation(field, "is bad"),)
    )
    error = body_of(problem)["error"]
    assert error["param"] == param
    assert error["message"] == (f"{param}: is bad" if param else "is bad")
    assert error["code"] == "invalid_value"


def test_of_several_bad_fields_all_are_told_and_the_first_is_the_parameter() -> None:
    violations = (FieldViolation("sampling.n", "is bad"), FieldViolation("sampling.seed", "too"))
    problem = Problem(400, "INVALID_ARGUMENT", "INVALID_REQUEST", "?", violations)
    assert body_of(problem)["error"]["message"] == "n: is bad; seed: too"
    assert body_of(problem)["error"]["param"] == "n"
