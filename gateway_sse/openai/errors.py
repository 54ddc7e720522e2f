"""From a problem to an error body as OpenAI's API has it. No I/O.

::

    {"error": {"message": "top_p: must be at most 1", "type": "invalid_request_error",
               "param": "top_p", "code": "invalid_value"}}

The types are those that OpenAI sends, which are fewer than its clients have classes: those go by
the HTTP status. The codes are OpenAI's where it has one, else the service's reason in lower case.
"""

from typing import Final

from typing_extensions import TypedDict

from gateway_sse.problems import Problem

_OURS: Final = ("/v1/completions/", "/v1/streams", "/v1/perceived")

_BAD_REQUEST: Final = "invalid_request_error"
_TYPES: Final = {429: "requests"}
_SERVER_ERROR: Final = "server_error"

_CODES: Final = {
    "WRONG_TYPE": "invalid_type",
    "UNKNOWN_FIELD": "unknown_parameter",
    "MISSING_FIELD": "missing_required_parameter",
    "UNSUPPORTED_FIELD": "unsupported_parameter",
    "UNSUPPORTED_VALUE": "unsupported_value",
    "INVALID_REQUEST": "invalid_value",
    "MODEL_NOT_FOUND": "model_not_found",
    "TOO_MANY_STREAMS": "rate_limit_exceeded",
    "TOO_MANY_REQUESTS_OPEN": "rate_limit_exceeded",
    "HTTP_404": "unknown_url",
}
_CODES_OF_STATUSES: Final = {
    401: "invalid_api_key",
    405: "method_not_supported",
    413: "request_too_large",
    415: "unsupported_content_type",
}

# The contract's names of fields, with or without the part that it keeps them in, where they are
# not OpenAI's.
_PREFIXES: Final = ("sampling.", "stream.", "structured_output.")
_NAMES: Final = (
    ("chat.messages", "messages"),
    ("chat", "messages"),
    ("token_ids.ids", "prompt"),
    ("token_ids", "prompt"),
    ("text", "prompt"),
    ("include_stop", "include_stop_str_in_output"),
    ("regex", "structured_outputs.regex"),
    ("json_schema", "response_format.json_schema"),
    ("json_object", "response_format"),
    ("structured_output", "response_format"),
)


class ErrorDetail(TypedDict):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """The body of every failure, and the data of a failed stream's last chunk."""

    error: ErrorDetail


def is_openai_path(path: str) -> bool:
    """Tell whether failures on this path have OpenAI's shape: all of ``/v1/`` that is not ours."""
    return path.startswith("/v1/") and not path.startswith(_OURS)


def body_of(problem: Problem) -> ErrorBody:
    """Return what is sent as JSON."""
    named = [(_name(v.field), v.description) for v in problem.field_violations]
    if named:
        message = "; ".join(f"{name}: {why}" if name else why for name, why in named)
        param = named[0][0] or None
    else:
        message = problem.message
        param = "model" if problem.reason == "MODEL_NOT_FOUND" else None
    return {
        "error": {
            "message": message,
            "type": _type(problem.status),
            "param": param,
            "code": _code(problem),
        }
    }


def _type(status: int) -> str:
    return _TYPES.get(status, _BAD_REQUEST if status < 500 else _SERVER_ERROR)


def _code(problem: Problem) -> str | None:
    code = _CODES.get(problem.reason) or _CODES_OF_STATUSES.get(problem.status)
    return code or problem.reason.lower() or None


def _name(field: str) -> str:
    for prefix in _PREFIXES:
        field = field.removeprefix(prefix)
    for ours, theirs in _NAMES:
        if field == ours or field.startswith((f"{ours}.", f"{ours}[")):
            return theirs + field.removeprefix(ours)
    return field
