"""``POST /v1/chat/completions``: its body, and what it asks of the service. No I/O."""

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from gateway_sse.openai.asked import Asked, shared_options, wants_usage
from gateway_sse.openai.fields import (
    MOST_ENTRIES,
    UNSUPPORTED,
    Only,
    Part,
    SharedOptions,
    few_entries,
    text_or_list,
)
from gateway_sse.openai.parsing import read
from gateway_sse.problems import Refused
from tokenstream_client import Chat, ChatMessage

_NO_TOOLS: Final = "the service calls no tools"
_ENTRIES: Final[Any] = Field(fail_fast=True, max_length=MOST_ENTRIES)
_NO_AUDIO: Final = "the service has text only"


def _a_role_with_text(role: object) -> object:
    if role in ("tool", "function"):
        raise PydanticCustomError(UNSUPPORTED, "messages of tools are not supported")
    return role


def _a_part_with_text(part: object) -> object:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind != "text":
        raise PydanticCustomError(
            UNSUPPORTED, "parts of type {kind} are not supported, only text", {"kind": kind[:64]}
        )
    return part


def _not_empty(messages: list["Message"]) -> list["Message"]:
    if not messages:
        raise PydanticCustomError("empty", "must not be empty")
    return messages


class TextPart(Part):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Part):
    """One message of the conversation; what answers have may be sent back as it came."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant"], BeforeValidator(_a_role_with_text)
    ]
    content: Annotated[
        Annotated[str, Tag("(text)")]
        | Annotated[
            list[Annotated[TextPart, BeforeValidator(_a_part_with_text)]], _ENTRIES, Tag("(list)")
        ],
        Discriminator(text_or_list),
    ]
    """Text, or parts of it, which are put below each other as vLLM's own server does."""
    name: str | None = None
    refusal: Annotated[object, Only((), "no refusals are known here")] = None
    annotations: Annotated[object, Only(([],), "no annotations are known here")] = None
    audio: Annotated[object, Only((), _NO_AUDIO)] = None
    tool_calls: Annotated[object, Only(([],), _NO_TOOLS)] = None
    tool_call_id: Annotated[object, Only((), _NO_TOOLS)] = None
    function_call: Annotated[object, Only((), _NO_TOOLS)] = None

    def text(self) -> str:
        """Return the content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatRequest(SharedOptions):
    """A conversation and how to continue it."""

    messages: Annotated[list[Message], _ENTRIES, AfterValidator(_not_empty)]
    max_completion_tokens: int | None = None
    """The newer name of max_tokens."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many of the likeliest tokens in each one's place."""

    tools: Annotated[object, Only(([],), _NO_TOOLS)] = None
    tool_choice: Annotated[object, Only(("none", "auto"), _NO_TOOLS)] = None
    parallel_tool_calls: Annotated[object, Only((True, False), _NO_TOOLS)] = None
    functions: Annotated[object, Only(([],), _NO_TOOLS)] = None
    function_call: Annotated[object, Only(("none", "auto"), _NO_TOOLS)] = None
    audio: Annotated[object, Only((), _NO_AUDIO)] = None
    modalities: Annotated[object, Only((["text"],), _NO_AUDIO)] = None
    prediction: Annotated[object, Only((), "predicted outputs are not used")] = None
    web_search_options: Annotated[object, Only((), "the service searches nothing")] = None
    reasoning_effort: Annotated[object, Only((), "the model's effort cannot be set")] = None
    verbosity: Annotated[object, Only(("medium",), "the model's verbosity cannot be set")] = None
    moderation: Annotated[object, Only((), "nothing is moderated here")] = None
    store: Annotated[object, Only((False,), "no answers are stored")] = None
    service_tier: Annotated[
        object, Only(("auto", "default"), "there are no tiers; priority is a field of its own")
    ] = None

    # About the caller or OpenAI's caches: no answer is another one for them.
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], BeforeValidator(few_entries)] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None


def chat(content_type: str, body: bytes) -> Asked:
    """Read a body. Raises Refused."""
    request = read(ChatRequest, content_type, body)
    options = shared_options(request)
    if request.max_completion_tokens is not None:
        if request.max_tokens is not None:
            raise Refused(
                "INVALID_REQUEST",
                "does not go together with max_completion_tokens",
                field="max_tokens",
            )
        options["max_tokens"] = request.max_completion_tokens
    logprobs = bool(request.logprobs)
    if logprobs:
        options["logprobs"] = request.top_logprobs or 0
    elif request.top_logprobs is not None:
        raise Refused(
            "INVALID_REQUEST", "is only for requests with logprobs set", field="top_logprobs"
        )
    return Asked(
        prompt=Chat(messages=tuple(map(_message, request.messages))),
        options=options,
        choices=1 if request.n is None else request.n,
        stream=bool(request.stream),
        include_usage=wants_usage(request),
        logprobs=logprobs,
    )


def _message(message: Message) -> ChatMessage:
    # "developer" is OpenAI's newer name; models' templates know the older one.
    role = "system" if message.role == "developer" else message.role
    return ChatMessage(role=role, content=message.text(), name=message.name or "")
