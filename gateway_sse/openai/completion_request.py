"""``POST /v1/completions``: its body, and what it asks of the service. No I/O."""

from typing import Annotated, Final, cast

from pydantic import Discriminator, Field, Tag

from gateway_sse.openai.asked import Asked, shared_options, wants_usage
from gateway_sse.openai.fields import FIRST_FAULT, Only, SharedOptions
from gateway_sse.openai.parsing import read
from gateway_sse.problems import Refused

_DEFAULT_MAX_TOKENS: Final = 16
"""OpenAI's own."""


def _kind_of_prompt(value: object) -> str:
    if not isinstance(value, list):
        return "(text)"
    match value[:1]:
        case [int()]:
            return "(token ids)"
        case [list()]:
            return "(lists of token ids)"
        case _:
            return "(texts)"


Prompt = Annotated[
    Annotated[str, Tag("(text)")]
    | Annotated[list[str], FIRST_FAULT, Tag("(texts)")]
    | Annotated[list[int], FIRST_FAULT, Tag("(token ids)")]
    | Annotated[list[Annotated[list[int], FIRST_FAULT]], FIRST_FAULT, Tag("(lists of token ids)")],
    Discriminator(_kind_of_prompt),
]


class CompletionRequest(SharedOptions):
    """A prompt and how to continue it."""

    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Of each token, and of so many of the likeliest in its place."""

    best_of: int | None = None
    """Taken if it is n."""
    echo: Annotated[object, Only((False,), "the prompt is not sent back")] = None
    suffix: Annotated[object, Only(("",), "text cannot be inserted before a suffix")] = None


def completion(content_type: str, body: bytes) -> Asked:
    """Read a body. Raises Refused."""
    request = read(CompletionRequest, content_type, body)
    choices = 1 if request.n is None else request.n
    if request.best_of not in (None, choices):
        raise Refused(
            "UNSUPPORTED_VALUE", "must be n: no more are made than are sent", field="best_of"
        )
    options = shared_options(request)
    options.setdefault("max_tokens", _DEFAULT_MAX_TOKENS)
    if request.logprobs is not None:
        options["logprobs"] = request.logprobs
    return Asked(
        prompt=_prompt(request),
        options=options,
        choices=choices,
        stream=bool(request.stream),
        include_usage=wants_usage(request),
        logprobs=request.logprobs is not None,
    )


def _prompt(request: CompletionRequest) -> str | list[int]:
    prompt = request.prompt
    if isinstance(prompt, str):
        return prompt
    match prompt:
        case []:
            raise Refused("INVALID_REQUEST", "must not be empty", field="prompt")
        case [str(text)]:
            return text
        case [list(token_ids)]:
            return token_ids
        case [int(), *_]:
            return cast(list[int], prompt)  # its kind was told by the first one
        case _:
            raise Refused(
                "UNSUPPORTED_VALUE",
                "must be one prompt; send a request for each of several",
                field="prompt",
            )
