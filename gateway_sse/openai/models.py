"""Models in OpenAI's shape. No I/O."""

from collections.abc import Iterable
from typing import Final, Literal

from typing_extensions import TypedDict

from tokenstream_client import Model

_OWNER: Final = "tokenstream"
_CREATED: Final = 0
"""Nobody knows; the same on each replica and after each restart."""


class ModelBody(TypedDict):
    """A model: OpenAI's fields, then ours."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    """Most tokens of prompt and output together."""
    vocab_size: int
    """Each token id is below it."""
    capabilities: list[str]


class ModelListBody(TypedDict):
    """All models."""

    object: Literal["list"]
    data: list[ModelBody]


def model_body(model: Model) -> ModelBody:
    """Return one model."""
    return {
        "id": model.id,
        "object": "model",
        "created": _CREATED,
        "owned_by": _OWNER,
        "context_length": model.context_length,
        "vocab_size": model.vocab_size,
        "capabilities": sorted(model.capabilities),
    }


def model_list_body(models: Iterable[Model]) -> ModelListBody:
    """Return a list of models."""
    return {"object": "list", "data": [model_body(model) for model in models]}
