"""How many tokens a request took, over all its choices. No I/O."""

from collections.abc import Iterable

from typing_extensions import TypedDict

from tokenstream_client import Finished, FinishReason


class PromptTokensDetails(TypedDict):
    """What the prompt's tokens were."""

    cached_tokens: int
    """Those whose computation was found in the prefix cache."""


class UsageBody(TypedDict):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    """Of all choices together."""
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


def usage_of(ends: Iterable[Finished]) -> UsageBody:
    """Return the sum over a request's choices, of which there is at least one."""
    usages = [end.usage for end in ends]
    prompt = usages[0].prompt_tokens
    completion = sum(usage.completion_tokens for usage in usages)
    # Later choices find in the cache what the first one has just computed.
    cached = min(usage.cached_prompt_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def finish_reason(end: Finished) -> str:
    """Return OpenAI's word for a choice's end: "length", or "stop" for all others, since clients
    take what they do not know for an error.
    """
    return "length" if end.reason is FinishReason.LENGTH else "stop"
