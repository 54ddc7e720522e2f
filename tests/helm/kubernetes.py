"""What Kubernetes, and the makers of custom resources, say about the form of an object."""

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import kubernetes_validate.utils as published
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from tests.helm.chart import Manifest

# The oldest that the chart claims to be for, to the newest that is published.
VERSIONS = ("1.31", "1.34", "1.37")

# It reads megabytes of JSON from disk for every object otherwise.
published.schema_contents = lru_cache(None)(published.schema_contents)

_CUSTOM = {path.stem: path for path in (Path(__file__).parent / "custom_resources").iterdir()}


@cache
def _custom(kind: str) -> Draft7Validator:
    return Draft7Validator(json.loads(_CUSTOM[kind].read_text()))


def check(manifest: Manifest) -> None:
    """Raise ValidationError if a version refuses it, or a custom resource has unknown fields."""
    _check(json.dumps(manifest))


@cache  # most objects of one set of values are also those of the next
def _check(text: str) -> None:
    manifest: dict[str, Any] = json.loads(text)
    if manifest["kind"] in _CUSTOM:
        _custom(manifest["kind"]).validate(manifest)
        return
    for version in VERSIONS:
        assert published.validate(manifest, version, strict=True) == version
