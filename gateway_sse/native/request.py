"""What a request of the bridge's own API may say, from JSON or from a query string. No I/O.

Both meet in one model, which checks names and types. Bounds are the service's to check: it knows
the model. Every refusal names its field.
"""

import json
from collections.abc import Iterable
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NoReturn,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
)

from pydantic import (
    AllowInfNan,
    BaseModel,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from gateway_sse.json_request import require_json
from gateway_sse.known_fields import KnownFields
from gateway_sse.native.violations import refused
from gateway_sse.problems import Refused
from tokenstream_client import Chat, ChatMessage, GenerateOptions

_M = TypeVar("_M", bound=BaseModel)

# A list's check ends at its first bad entry: a body has room for hundreds of thousands.
_FIRST_FAULT: Final[Any] = Field(fail_fast=True)
_MOST_MESSAGES: Final = 1024  # the contract's own bound
Integers = Annotated[list[StrictInt], _FIRST_FAULT]
Texts = Annotated[list[StrictStr], _FIRST_FAULT]
Number = StrictInt | Annotated[StrictFloat, AllowInfNan(False)]


class Message(KnownFields):
    """One message of a chat."""

    role: StrictStr = Field(description="who speaks: system, user or assistant")
    content: StrictStr = Field(description="what was said")
    name: StrictStr | None = Field(default=None, description="the speaker's name")


class Delivery(KnownFields):
    """How an answer reaches its reader; also of one that is resumed."""

    max_delay_ms: StrictInt | None = Field(
        default=None,
        description="longest time that a token after the first waits for company, 0 to 1000",
    )
    max_tokens_per_message: StrictInt | None = Field(
        default=None, description="most tokens in one event, 1 to 1024"
    )
    on_disconnect: Literal["end", "detach"] | None = Field(
        default=None,
        description="what a closed connection means: the answer ends at once, or stays for its"
        " time to live; unset: it ends unless somebody resumes it within a second",
    )
    ack_window: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = Field(
        default=None,
        description="tokens that are sent ahead of what the reader has acknowledged by POST"
        " /v1/streams/{id}/ack, at least 1; unset: as many as the connection takes",
    )


class StreamRequest(Delivery):
    """A prompt and how to continue it."""

    prompt: StrictStr | None = Field(default=None, description="text to continue")
    token_ids: Integers | None = Field(
        default=None, description="a prompt of token ids, used as they are"
    )
    messages: Annotated[list[Message], _FIRST_FAULT] | None = Field(
        default=None,
        max_length=_MOST_MESSAGES,
        description="a chat, put into text by the model's own template",
    )
    model: StrictStr | None = Field(default=None, description="default: the one that is served")
    client_request_id: StrictStr | None = Field(
        default=None, description="your own name for the request, for logs"
    )
    max_tokens: StrictInt | None = Field(default=None, description="most tokens to generate")
    min_tokens: StrictInt | None = Field(
        default=None, description="fewest tokens before anything may end the answer"
    )
    temperature: Number | None = Field(default=None, description="randomness, 0 to 2")
    top_p: Number | None = Field(
        default=None, description="smallest set of likely tokens that reaches this, above 0 to 1"
    )
    top_k: StrictInt | None = Field(default=None, description="likely tokens to consider; 0: all")
    min_p: Number | None = Field(
        default=None, description="least probability relative to the likeliest, 0 to 1"
    )
    presence_penalty: Number | None = Field(default=None, description="-2 to 2")
    frequency_penalty: Number | None = Field(default=None, description="-2 to 2")
    repetition_penalty: Number | None = Field(default=None, description="above 0, up to 10")
    seed: StrictInt | None = Field(default=None, description="0 to 2^63-1")
    stop: StrictStr | Texts | None = Field(
        default=None, description="string or strings that end the answer"
    )
    stop_token_ids: Integers | None = Field(default=None, description="tokens that end the answer")
    ignore_eos: StrictBool | None = Field(
        default=None, description="go on after the end-of-text token"
    )
    skip_special_tokens: StrictBool | None = Field(
        default=None, description="leave special tokens out of the text"
    )
    include_stop: StrictBool | None = Field(
        default=None, description="include the stop string or token in the text"
    )
    json_object: StrictBool | None = Field(default=None, description="true: a JSON object")
    json_schema: StrictStr | None = Field(
        default=None, description="keep to this JSON Schema, given as text"
    )
    regex: StrictStr | None = Field(default=None, description="keep to this expression")
    reading_tokens_per_second: Number | None = Field(
        default=None, description="how fast the answer is read; people read about 4.8"
    )
    priority: Literal["low", "normal", "high"] | None = Field(
        default=None, description="which requests go first"
    )
    time_to_live: Number | None = Field(
        default=None, description="seconds that the service keeps the answer without a reader"
    )


def _fields_of(*kinds: type) -> frozenset[str]:
    """Return the names of the fields that take one of these and are no lists."""
    return frozenset(
        name
        for name, field in StreamRequest.model_fields.items()
        if _members(field.annotation) & {*kinds}
    )


def _members(annotation: Any) -> set[object]:
    """Return what a union is of, without what is annotated to it."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_members, get_args(annotation)))
    return {get_origin(annotation) or annotation}


class Arguments:
    """What a request comes to: `prompt` and `options` for the client's `generate`, and the rest."""

    __slots__ = ("delivery", "options", "prompt")

    def __init__(self, request: StreamRequest) -> None:
        """Raises Refused unless there is exactly one prompt."""
        prompts: list[str | list[int] | Chat] = []
        if request.prompt is not None:
            prompts.append(request.prompt)
        if request.token_ids is not None:
            prompts.append(request.token_ids)
        if request.messages is not None:
            prompts.append(
                Chat(tuple(ChatMessage(m.role, m.content, m.name or "") for m in request.messages))
            )
        if len(prompts) != 1:
            why = "give exactly one of prompt, token_ids and messages"
            raise Refused("INVALID_REQUEST", why, field="prompt")
        self.prompt = prompts[0]
        self.delivery: Delivery = request
        values = request.model_dump(exclude_none=True, exclude=_NOT_OPTIONS)
        self.options = cast(GenerateOptions, values)


_NOT_OPTIONS: Final = {"prompt", "token_ids", "messages", "on_disconnect", "ack_window"}
_LISTS: Final = ("stop", "stop_token_ids", "token_ids")
_INTEGER_LISTS: Final = ("stop_token_ids", "token_ids")
_TRUTHS: Final = _fields_of(bool)
_NUMBERS: Final = _fields_of(int, float)


def from_body(content_type: str, body: bytes) -> Arguments:
    """Read a JSON body. Raises Refused."""
    return Arguments(checked(StreamRequest, json_object(content_type, body)))


def from_query(pairs: Iterable[tuple[str, str]]) -> Arguments:
    """Read a query string's decoded pairs; lists are repeated names. Raises Refused."""
    return Arguments(checked(StreamRequest, _values(StreamRequest, pairs)))


def delivery_from_body(content_type: str, body: bytes) -> Delivery:
    """Read how to deliver the rest of an answer; the body may be that of the request before, or
    empty. Raises Refused.
    """
    if not body:
        return Delivery()
    return _delivery_of(checked(StreamRequest, json_object(content_type, body)))


def delivery_from_query(pairs: Iterable[tuple[str, str]]) -> Delivery:
    """Read how to deliver the rest of an answer; the query may repeat the whole request, as that
    of an EventSource that reconnects does. Raises Refused.
    """
    return _delivery_of(checked(StreamRequest, _values(StreamRequest, pairs)))


def _delivery_of(request: StreamRequest) -> Delivery:
    return Delivery.model_construct(
        **{name: getattr(request, name) for name in Delivery.model_fields}
    )


def json_object(content_type: str, body: bytes) -> dict[str, Any]:
    """Read a body that has to be a JSON object. Raises Refused."""
    require_json(content_type)
    return object_from(body, "the body")


def object_from(text: str | bytes, what: str) -> dict[str, Any]:
    """Read JSON that has to be an object. Raises Refused, saying of `what`."""
    try:
        if isinstance(text, bytes):
            text = text.decode()
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # Not only JSONDecodeError: also bad UTF-8, and numbers of thousands of digits.
        detail = str(error) if isinstance(error, json.JSONDecodeError) else "it cannot be read"
        raise Refused("MALFORMED_JSON", f"{what} is not JSON: {detail}") from error
    if not isinstance(values, dict):
        raise Refused("MALFORMED_JSON", f"{what} must be a JSON object")
    return values


def checked(model: type[_M], values: dict[str, Any]) -> _M:
    """Check names and types. Raises Refused, naming the first field that is unknown, or else those
    that are wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise refused(error, tuple(model.model_fields)) from None


def _values(model: type[BaseModel], pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Turn a query's texts into what JSON would have given; what does not fit stays text."""
    given: dict[str, list[str]] = {}
    for name, text in pairs:
        given.setdefault(name, []).append(text)
    return {name: _value(name, texts) for name, texts in given.items()}


def _value(name: str, texts: list[str]) -> object:
    if name in _INTEGER_LISTS:
        return [_plain(item) for text in texts for item in text.split(",")]
    if name in _LISTS:
        return texts
    if len(texts) > 1:
        raise Refused("WRONG_TYPE", "given more than once", field=name)
    (text,) = texts
    if name in _TRUTHS:
        return {"true": True, "1": True, "false": False, "0": False}.get(text, text)
    return _plain(text) if name in _NUMBERS else text


def _plain(text: str) -> object:
    """Return the number that a text is as in JSON, or the text."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text
    return value if type(value) in (int, float) else text


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
