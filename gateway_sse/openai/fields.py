"""The types of fields that OpenAI's requests share. No I/O.

Types are strict: a number in quotes is no number. ``null`` is "not set" everywhere, as OpenAI's
clients send it. Bounds are the service's to check, which knows the model; here are only those of
fields that have another name there, and those that keep the checking itself short: of a megabyte of
faults only the first is looked for.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from gateway_sse.known_fields import KnownFields

UNSUPPORTED: Final = "unsupported"
"""The type of the validation error of what this API has, and the service has not."""

MOST_ENTRIES: Final = 1024
"""In a list or an object whose entries are objects or have names: the contract's own bound."""


class Part(KnownFields):
    """An object in a request, or the request itself."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True, slots=True)
class Only:
    """Takes values that change nothing, and null; refuses all others by the field's name.

    So a client that sends OpenAI's defaults is served, and nobody gets an answer that is not the
    one they asked for.
    """

    harmless: tuple[object, ...]
    why: str

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Check in place of the annotated type."""
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """List the values."""
        return {"enum": [None, *self.harmless], "description": f"Otherwise refused: {self.why}."}

    def _check(self, value: object) -> object:
        # Not `in`: True equals 1.
        if value is None or any(type(value) is type(h) and value == h for h in self.harmless):
            return value
        raise PydanticCustomError(UNSUPPORTED, "{why}", {"why": self.why})


def is_tag(part: str) -> bool:
    """Tell whether a part of an error's location is the name of an alternative, and no field's."""
    return part.startswith("(")


def text_or_list(value: object) -> str:
    """Choose the alternative that a value is meant to be, so that only its errors are told."""
    return "(list)" if isinstance(value, list) else "(text)"


FIRST_FAULT: Final[Any] = Field(fail_fast=True)
"""Makes a list's check end at its first bad entry."""

Texts = Annotated[
    Annotated[str, Tag("(text)")] | Annotated[list[str], FIRST_FAULT, Tag("(list)")],
    Discriminator(text_or_list),
]
"""One text or several."""


def few_entries(value: object) -> object:
    """Refuse an object with too many entries before they are looked at."""
    if isinstance(value, dict) and len(value) > MOST_ENTRIES:
        raise PydanticCustomError(
            "too_many", "must have at most {most} entries", {"most": MOST_ENTRIES}
        )
    return value


def _token_id_keys(value: dict[str, float]) -> dict[str, float]:
    for key in value:
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise PydanticCustomError("token_id_key", 'the names must be token ids, such as "42"')
    return value


class StreamOptions(Part):
    """What a streamed answer has besides its text."""

    include_usage: bool | None = None
    """Whether the last chunk has the counts of tokens."""
    include_obfuscation: bool | None = None
    """Taken and ignored: chunks are never padded."""


class JsonSchemaFormat(Part):
    """A named JSON Schema."""

    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None
    """Taken and ignored: the output is always kept to the schema."""


class ResponseFormat(Part):
    """What form the answer has."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Part):
    """A form that OpenAI has no name for; named as vLLM's server names it."""

    regex: str
    """A regular expression that the whole answer matches."""


class SharedOptions(Part):
    """What both kinds of requests can have: OpenAI's names first, then this service's own."""

    model: str
    """As ``GET /v1/models`` names it. Empty: the one that is served."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: Texts | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: (
        Annotated[dict[str, float], BeforeValidator(few_entries), AfterValidator(_token_id_keys)]
        | None
    ) = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Taken and ignored."""

    min_tokens: int | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    stop_token_ids: Annotated[list[int], FIRST_FAULT] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    priority: Literal["low", "normal", "high"] | None = None
    max_delay_ms: int | None = None
    """Longest time in milliseconds that a token after the first may wait for others to share its
    chunk."""
    max_tokens_per_message: int | None = None
    reading_tokens_per_second: float | None = None
