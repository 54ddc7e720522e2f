"""Streams' events, made short."""

from gateway_sse.openai.asked import Asked
from tokenstream_client import (
    Delta,
    Finished,
    FinishReason,
    LikelyToken,
    Started,
    Timings,
    TokenLogprobs,
    Usage,
)

STARTED = Started(stream_id="s7", model="demo", prompt_tokens=3, client_request_id="")
CREATED = 1_700_000_000


def asked(
    choices: int = 1,
    *,
    stream: bool = True,
    include_usage: bool = False,
    logprobs: bool = False,
) -> Asked:
    return Asked("Hi", {}, choices, stream, include_usage, logprobs)


def delta(text: str, *, choice: int = 0, first: int = 0, tokens: int = 1) -> Delta:
    return Delta(choice, first, tuple(range(tokens)), text)


def delta_of(*tokens: bytes, choice: int = 0, text: str | None = None) -> Delta:
    """A delta with log-probabilities: the likeliest token is the token itself, then another."""
    entries = tuple(
        TokenLogprobs(-0.5, token, (LikelyToken(7, -0.5, token), LikelyToken(8, -1.5, b"other")))
        for token in tokens
    )
    joined = b"".join(tokens).decode() if text is None else text
    return Delta(choice, 0, tuple(range(len(tokens))), joined, entries)


def finished(
    tokens: int,
    *,
    choice: int = 0,
    reason: FinishReason = FinishReason.LENGTH,
    cached: int = 0,
) -> Finished:
    return Finished(
        choice_index=choice,
        reason=reason,
        stop_string=None,
        stop_token_id=None,
        usage=Usage(prompt_tokens=3, completion_tokens=tokens, cached_prompt_tokens=cached),
        timings=Timings(time_to_first_token=0.1, total=0.2),
    )
