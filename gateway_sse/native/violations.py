"""From pydantic's errors to a refusal that names the fields, in words for people. No I/O."""

import difflib
from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway_sse.known_fields import UNKNOWN
from gateway_sse.problems import Refused
from tokenstream_client import FieldViolation

_WANTED: Final = {
    "string_type": "text",
    "int_type": "an integer",
    "float_type": "a number",
    "finite_number": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
}


# As many faults as people read of one request; a body can have hundreds of thousands.
_MOST: Final = 16
_LONGEST_NAME: Final = 64


def refused(error: ValidationError, known: Sequence[str]) -> Refused:
    """Return the refusal. `known`: the fields that there are."""
    wanted: dict[str, list[str]] = {}
    reason = "WRONG_TYPE"
    details = error.errors(include_url=False, include_context=True, include_input=False)
    for detail in details[:_MOST]:
        path = _path(detail["loc"], known)
        if detail["type"] == "string_unicode":
            wanted.setdefault(path, []).append("must be Unicode text")
            continue
        if detail["type"] == UNKNOWN:
            reason = "UNKNOWN_FIELD"
            name = detail["ctx"]["name"]
            # Of a part the fields are others.
            words = "unknown field" if path else _unknown(name, known)
            wanted.setdefault(f"{path}.{name}" if path else name, []).append(words)
        elif detail["type"] == "missing":
            wanted.setdefault(path, []).append("is missing")
        else:
            wanted.setdefault(path, []).append(_words(detail))
    violations = tuple(
        FieldViolation(field, _joined(dict.fromkeys(words)))
        for field, words in wanted.items()
        # A value that is a list, but of the wrong things, is no text either: not worth saying.
        if not any(other.startswith(f"{field}[") for other in wanted)
    )
    return Refused.of(reason, violations)


def _path(location: tuple[int | str, ...], known: Sequence[str]) -> str:
    """Write a place as ``messages[0].role``, without the names of a union's members."""
    path = ""
    for position, part in enumerate(location):
        if isinstance(part, int):
            path += f"[{part}]"
        elif position == 0:
            path = part[:_LONGEST_NAME]
        elif part.isidentifier() and part.islower() and part not in _MEMBERS:
            path += f".{part}"
    return path


_MEMBERS: Final = ("str", "int", "float", "bool", "list", "dict")


def _words(detail: ErrorDetails) -> str:
    wanted = _WANTED.get(detail["type"])
    if wanted is not None:
        return f"must be {wanted}"
    if detail["type"] == "literal_error":
        return f"must be {detail['ctx']['expected'].replace(chr(39), chr(34))}"
    if detail["type"] == "too_long":
        return f"must have at most {detail['ctx']['max_length']} entries"
    return detail["msg"][:1].lower() + detail["msg"][1:]


def _joined(words: dict[str, None]) -> str:
    """Say once that a value must be one thing or another."""
    if "must be a number" in words:
        words.pop("must be an integer", None)
    if len(words) > 1 and all(word.startswith("must be ") for word in words):
        return "must be " + " or ".join(word.removeprefix("must be ") for word in words)
    return "; ".join(words)


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown field; {hint}"
