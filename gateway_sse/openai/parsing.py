"""From a body to a checked request model; what does not fit is refused, its field named. No I/O."""

import difflib
from collections.abc import Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway_sse.json_request import require_json
from gateway_sse.known_fields import UNKNOWN
from gateway_sse.openai.fields import UNSUPPORTED, is_tag
from gateway_sse.problems import Refused

_M = TypeVar("_M", bound=BaseModel)

_LONGEST_NAME: Final = 64

_WORDS: Final[Mapping[str, str]] = {
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing_size": "is too large",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
_BOUNDS: Final[Mapping[str, tuple[str, str]]] = {
    "greater_than_equal": ("ge", "must be at least"),
    "less_than_equal": ("le", "must be at most"),
    "too_long": ("max_length", "must have no more entries than"),
}


def read(model: type[_M], content_type: str, body: bytes) -> _M:
    """Read a JSON body of the model's kind. Raises Refused, for the first field that is wrong."""
    require_json(content_type)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _refused(model, first) from error


def _refused(model: type[BaseModel], error: ErrorDetails) -> Refused:
    kind, field = error["type"], _path(error["loc"])
    if kind == "json_invalid":
        detail = error["ctx"]["error"]
        return Refused("MALFORMED_JSON", f"the body is not JSON: {detail}")
    if kind == UNKNOWN:
        return _unknown(model, field, error["ctx"]["name"])
    if not field:
        return Refused("MALFORMED_JSON", "the body must be a JSON object")
    if kind == "missing":
        return Refused("MISSING_FIELD", "is required", field=field)
    if kind == "literal_error":
        return Refused("INVALID_REQUEST", f"must be {error['ctx']['expected']}", field=field)
    if kind == UNSUPPORTED:
        return Refused("UNSUPPORTED_FIELD", error["msg"], field=field)
    if kind in _WORDS:
        return Refused("WRONG_TYPE", _WORDS[kind], field=field)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return Refused("INVALID_REQUEST", f"{words} {error['ctx'][name]}", field=field)
    message = error["msg"]
    return Refused("INVALID_REQUEST", message[:1].lower() + message[1:], field=field)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not is_tag(part):
            path += ("." if path else "") + part[:_LONGEST_NAME]
    return path


def _unknown(model: type[BaseModel], parent: str, name: str) -> Refused:
    hint = ""
    if not parent:  # only names of the request itself are known here
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
    field = f"{parent}.{name}" if parent else name
    return Refused("UNKNOWN_FIELD", f"unknown field{hint}", field=field)
