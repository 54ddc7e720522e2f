"""From a JSON body or a query string to what the client's `generate` takes. No I/O.

Both ways meet in one check of names and types. Bounds are the service's to check: it knows the
model. Every refusal names its field.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NoReturn, cast

from gateway_sse.problems import Refused
from tokenstream_client import GenerateOptions


class Kind(Enum):
    """What a field's value is; the value is how people read it."""

    TEXT = "text"
    INTEGER = "an integer"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    TEXTS = "text or a list of texts"
    INTEGERS = "a list of integers"


_PLAIN_INTEGER: Final = re.compile(r"[+-]?[0-9]+")  # Python's int takes more, such as 1_0

FIELDS: Final[Mapping[str, Kind]] = {
    "prompt": Kind.TEXT,
    "token_ids": Kind.INTEGERS,
    "model": Kind.TEXT,
    "client_request_id": Kind.TEXT,
    "max_tokens": Kind.INTEGER,
    "min_tokens": Kind.INTEGER,
    "temperature": Kind.NUMBER,
    "top_p": Kind.NUMBER,
    "top_k": Kind.INTEGER,
    "min_p": Kind.NUMBER,
    "presence_penalty": Kind.NUMBER,
    "frequency_penalty": Kind.NUMBER,
    "repetition_penalty": Kind.NUMBER,
    "seed": Kind.INTEGER,
    "stop": Kind.TEXTS,
    "stop_token_ids": Kind.INTEGERS,
    "ignore_eos": Kind.BOOLEAN,
    "skip_special_tokens": Kind.BOOLEAN,
    "include_stop": Kind.BOOLEAN,
    "max_delay_ms": Kind.INTEGER,
    "max_tokens_per_message": Kind.INTEGER,
    "reading_tokens_per_second": Kind.NUMBER,
    "priority": Kind.TEXT,
}


@dataclass(frozen=True, slots=True)
class Arguments:
    """What `generate` takes."""

    prompt: str | list[int]
    options: GenerateOptions


def from_body(content_type: str, body: bytes) -> Arguments:
    """Read a JSON body. Raises Refused."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refused(
            "UNSUPPORTED_MEDIA_TYPE", "the content type must be application/json", status=415
        )
    try:
        values = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # Not only JSONDecodeError: also bad UTF-8, and numbers of thousands of digits.
        detail = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise Refused("MALFORMED_JSON", f"the body is not JSON: {detail}") from error
    if not isinstance(values, dict):
        raise Refused("MALFORMED_JSON", "the body must be a JSON object")
    return _arguments(values)


def from_query(pairs: Iterable[tuple[str, str]]) -> Arguments:
    """Read a query string's decoded pairs; lists are repeated names. Raises Refused."""
    given: dict[str, list[str]] = {}
    for name, text in pairs:
        given.setdefault(name, []).append(text)
    _check_names(given)
    return _arguments({name: _from_texts(name, texts) for name, texts in given.items()})


def _arguments(values: dict[str, Any]) -> Arguments:
    _check_names(values)
    # null is what many clients send for "not set".
    values = {name: value for name, value in values.items() if value is not None}
    for name, value in values.items():
        if not _fits(FIELDS[name], value):
            raise Refused("WRONG_TYPE", f"must be {FIELDS[name].value}", field=name)
    if ("prompt" in values) == ("token_ids" in values):
        raise Refused("INVALID_REQUEST", "give either prompt or token_ids", field="prompt")
    prompt = values.pop("prompt") if "prompt" in values else values.pop("token_ids")
    return Arguments(prompt, cast(GenerateOptions, values))


def _check_names(names: Iterable[str]) -> None:
    for name in names:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(FIELDS)}"
            raise Refused("UNKNOWN_FIELD", f"unknown field; {hint}", field=name[:64])


def _fits(kind: Kind, value: object) -> bool:
    match kind:
        case Kind.TEXT:
            return isinstance(value, str)
        case Kind.INTEGER:
            return _is_integer(value)
        case Kind.NUMBER:
            return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))
        case Kind.BOOLEAN:
            return isinstance(value, bool)
        case Kind.TEXTS:
            items = value if isinstance(value, list) else [value]
            return all(isinstance(item, str) for item in items)
        case Kind.INTEGERS:
            return isinstance(value, list) and all(map(_is_integer, value))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _from_texts(name: str, texts: list[str]) -> object:
    """Turn a query's texts into what JSON would have given; what does not fit stays text."""
    kind = FIELDS[name]
    if kind is Kind.TEXTS:
        return texts
    if kind is Kind.INTEGERS:
        return [_from_text(Kind.INTEGER, item) for text in texts for item in text.split(",")]
    if len(texts) > 1:
        raise Refused("WRONG_TYPE", "given more than once", field=name)
    return _from_text(kind, texts[0])


def _from_text(kind: Kind, text: str) -> object:
    try:
        match kind:
            case Kind.INTEGER:
                return int(text) if _PLAIN_INTEGER.fullmatch(text) else text
            case Kind.NUMBER:
                return float(text)
            case Kind.BOOLEAN:
                return {"true": True, "1": True, "false": False, "0": False}.get(text, text)
            case _:
                return text
    except ValueError:
        return text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
