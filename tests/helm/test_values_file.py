import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.helm.chart import CHART

VALUES = CHART / "values.yaml"
_KEY = re.compile(r"^( *)(?:- )?([A-Za-z_]+):(.*)$")


def test_every_value_has_a_comment() -> None:
    """In the line above it; items of lists and of maps are told of by their own comment."""
    lines = VALUES.read_text().splitlines()
    bare = []
    for number, (above, line) in enumerate(zip(["", *lines], lines, strict=False), start=1):
        found = _KEY.match(line)
        if (
            found is None
            or line.lstrip().startswith(("#", "- "))
            or _is_the_users(lines, number - 1)
        ):
            continue
        if not above.lstrip().startswith("#"):
            bare.append(f"{number}: {line.strip()}")
    assert not bare


def _is_the_users(lines: list[str], index: int) -> bool:
    indent = len(lines[index]) - len(lines[index].lstrip())
    for line in reversed(lines[:index]):
        of_line = len(line) - len(line.lstrip())
        if line.strip() and of_line < indent:
            return line.lstrip().startswith(("- ", "requests:", "limits:", "labels:"))
    return False


def test_the_schema_knows_every_name_and_no_others() -> None:
    """Every object says which keys it has, except for those whose keys are the user's."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = [path for path, part in _objects(schema, "") if not _is_strict(part)]
    assert sorted(free) == sorted(
        [
            "/properties/global",  # a parent chart's
            "/properties/config/properties/service/properties/engine_args",  # vLLM's
            "/properties/config/properties/service/properties/scheduler_args",
            "/properties/service/properties/affinity",  # Kubernetes' own form, passed on
            "/properties/bridge/properties/affinity",
            "/$defs/volumeSource",
        ]
    )


def _is_strict(part: dict[str, Any]) -> bool:
    return "additionalProperties" in part and part["additionalProperties"] is not True


def _objects(part: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        if part.get("type") == "object":
            yield path, part
        for key, value in part.items():
            yield from _objects(value, f"{path}/{key}")
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from _objects(value, f"{path}/{index}")


def test_the_schema_has_exactly_the_values_of_the_file() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load(VALUES.read_text())
    assert set(_paths_of_schema(schema, schema, "")) - {"/global"} == set(_paths(defaults, ""))


def _paths(values: dict[str, Any], path: str) -> Iterator[str]:
    for key, value in values.items():
        here = f"{path}/{key}"
        if here.rsplit("/", 1)[-1] in ("requests", "limits", "labels"):
            yield here  # what is in there is the user's
            continue
        yield here
        if isinstance(value, dict):
            yield from _paths(value, here)


def _paths_of_schema(schema: dict[str, Any], part: dict[str, Any], path: str) -> Iterator[str]:
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rsplit("/", 1)[-1]]
    for key, value in part.get("properties", {}).items():
        if path.endswith("/engine_args"):
            return
        yield f"{path}/{key}"
        yield from _paths_of_schema(schema, value, f"{path}/{key}")
