"""What a form would cost to work out, told before that is tried: counted repetitions.

A count in a regular expression or a JSON Schema is a few characters and any number of states.
Within `MOST` llguidance takes milliseconds; the largest that fits into the allowed size takes
minutes and gigabytes.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from service.domain import StructuredOutput

MOST = 20_000
MOST_NESTED = 64  # of objects and arrays, as vLLM has it

_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains")

_BRACES = re.compile(r"\{(\d+)(?:,(\d*))?\}|\{,(\d+)\}")
_ESCAPE = re.compile(r"[pPxuU]\{[^{}]{0,64}\}")  # behind the backslash
_VERBOSE = re.compile(r"\(\?[a-zA-Z]{0,8}x")  # in which a comment could hide brackets
_DIGITS = 7  # of a count; more are too many anyway


def why_too_costly(form: StructuredOutput) -> str:
    """Why a form is not tried; empty if it is."""
    if form.regex is not None:
        return _of_regexes((form.regex,))
    return "" if form.json_schema is None else _of_schema(form.json_schema)


def _of_schema(text: str) -> str:
    try:
        schema = json.loads(text, parse_constant=_not_json)
    except RecursionError:
        return f"is nested more than {MOST_NESTED} deep"
    except ValueError:
        return "is not JSON"
    if not isinstance(schema, dict):
        return "is not a JSON object"
    counted, patterns = 0, list[str]()
    for name, value, depth in _members(schema):
        if depth > MOST_NESTED:
            return f"is nested more than {MOST_NESTED} deep"
        if name in _COUNTS and isinstance(value, int | float):
            counted += int(min(value, MOST + 1))
        if name == "pattern" and isinstance(value, str):
            patterns.append(value)
        elif name == "patternProperties" and isinstance(value, dict):
            patterns.extend(value)
    return _of_regexes(patterns, counted)


def _members(schema: Any) -> Iterator[tuple[str, Any, int]]:
    """All members of all objects, and how deep they are."""
    waiting = [("", schema, 1)]
    while waiting:
        name, value, depth = waiting.pop()
        yield name, value, depth
        if isinstance(value, dict):
            waiting.extend((key, inner, depth + 1) for key, inner in value.items())
        elif isinstance(value, list):
            waiting.extend(("", inner, depth + 1) for inner in value)


def _of_regexes(regexes: Iterable[str], counted: int = 0) -> str:
    for regex in regexes:
        if _VERBOSE.search(regex):
            return "has the flag x, which is not supported"
        counted += _worth(regex)
        if counted > MOST:
            break
    return f"repeats something more than {MOST} times in all" if counted > MOST else ""


def _worth(regex: str) -> int:
    """Add up pieces: a group is worth what is in it, and a count multiplies the piece before.

    A character, an escape and a class are worth one. One look at each character, whatever it says.
    """
    groups, piece = [0], 0  # the worth of each open group, without its last piece
    classes = at = 0  # classes that are open
    while at < len(regex):
        character = regex[at]
        at += 1
        braces = _BRACES.match(regex, at - 1)
        if character == "\\":
            at = escape.end() if (escape := _ESCAPE.match(regex, at)) else at + 1
        if classes or character == "[":
            classes += (character == "[") - (character == "]")
            if classes:
                continue  # until it is closed, which is its piece
        elif character == "(":
            groups[-1] += piece
            groups.append(0)
            piece = 0
            continue
        elif character == ")" and len(groups) > 1:
            piece += groups.pop()
            continue
        elif braces:
            at = braces.end()
            piece *= max(1, *(int(count[:_DIGITS]) for count in braces.groups("") if count))
            if groups[-1] + piece > MOST:
                break
            continue
        elif character in "*+?|":
            continue
        groups[-1] += piece
        piece = 1
    return sum(groups) + piece


def _not_json(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity, which only Python reads
