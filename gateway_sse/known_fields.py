"""What all request models share: nothing but the fields that they declare. No I/O."""

from functools import cache
from typing import Final

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

UNKNOWN: Final = "unknown"
"""The type of the validation error of a field that does not exist; in its context is how its `name`
begins."""

_LONGEST_NAME: Final = 64


class KnownFields(BaseModel):
    """Refuses the first field that it does not know.

    By itself pydantic would make an error of each, and a body has room for a hundred thousand.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        if isinstance(value, dict):
            names = _names(cls)
            for name in value:
                if name not in names:
                    raise PydanticCustomError(UNKNOWN, "unknown field", {"name": _told(name)})
        return value


def _told(name: str) -> str:
    # A lone surrogate cannot be said back.
    return name[:_LONGEST_NAME].encode(errors="replace").decode()


@cache
def _names(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in model.model_fields.items())
