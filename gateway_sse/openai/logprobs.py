"""Log-probabilities in OpenAI's two shapes: chat's, and that of completions. No I/O."""

import codecs
from collections.abc import Iterable
from typing import Final

from typing_extensions import TypedDict

from tokenstream_client import TokenLogprobs

_LEAST: Final = -9999.0
"""Stands for minus infinity, which JSON cannot say; vLLM's server has the same."""


class TopLogprob(TypedDict):
    """A token that could have been chosen."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """A token of the answer, and what else was likely in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(TypedDict):
    """Of some of a chat answer's tokens."""

    content: list[ChatLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    """Of some of a completion's tokens: entry i of each list is of one token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    """The token itself is always among them."""
    text_offset: list[int]
    """Characters of the choice's text before the token."""


def chat_logprobs(entries: Iterable[TokenLogprobs]) -> ChatLogprobs:
    """Return a chat choice's ``logprobs``."""
    return {
        "content": [
            {
                **_top(entry.token, entry.logprob),
                "top_logprobs": [_top(likely.token, likely.logprob) for likely in entry.likeliest],
            }
            for entry in entries
        ],
        "refusal": None,
    }


class TextOffsets:
    """Where a choice's tokens begin in its text, from their bytes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._characters = 0

    def next(self, token: bytes) -> int:
        """Return where the next token begins. One that ends a character begun before it begins
        where the character does.
        """
        offset = self._characters
        self._characters += len(self._decoder.decode(token))
        return offset


def completion_logprobs(
    entries: Iterable[TokenLogprobs], offsets: TextOffsets
) -> CompletionLogprobs:
    """Return a completion choice's ``logprobs``; `offsets` knows the tokens before these."""
    body: CompletionLogprobs = {
        "tokens": [],
        "token_logprobs": [],
        "top_logprobs": [],
        "text_offset": [],
    }
    for entry in entries:
        token, logprob = _text(entry.token, "bytes:"), _finite(entry.logprob)
        body["tokens"].append(token)
        body["token_logprobs"].append(logprob)
        body["top_logprobs"].append(
            {_text(likely.token, "bytes:"): _finite(likely.logprob) for likely in entry.likeliest}
            | {token: logprob}
        )
        body["text_offset"].append(offsets.next(entry.token))
    return body


def _top(token: bytes, logprob: float) -> TopLogprob:
    return {"token": _text(token), "logprob": _finite(logprob), "bytes": list(token)}


def _text(token: bytes, prefix: str = "") -> str:
    """Return a token's text or, if it is half a character, its bytes in OpenAI's notation."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return prefix + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
