"""Token ids to text: what is certain comes out, what is not is held back.

Rules:

1. Text never shows half a character: the decoder keeps incomplete UTF-8 until its rest comes. If
   it never comes, it is dropped, as vLLM drops it.
2. While a stop string could still begin in the text's tail (its longest length less one
   characters), that tail is held back, unless the request wants its stop string in the text.
3. The text that is out after k tokens depends on those k tokens alone, however they were cut into
   messages and whatever was decoded behind them. So a reader that comes back with the number of
   its tokens has said all about its text (`TextCursor.skip`).
4. Text that is held back when the end comes without a token (a cancel, a failure) is out after
   all tokens, by itself; it is the only text without a token.

Joined, the text equals vLLM's own for the same tokens; a property test holds both against each
other (tests/engine/test_text_like_vllm.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class TokenDecoder(Protocol):
    """Incremental decoder of one request's output; keeps incomplete characters to itself."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Take the next tokens; return the text that became certain, possibly none.

        Taking them one by one gives the same text in the end, and the same after each of them.
        """

    def decode_token(self, token_id: int) -> str:
        """Take one token; the same as `decode` of it alone, where that is all there is."""


@dataclass(frozen=True, slots=True)
class StopRules:
    """What of a request's sampling options concerns its text."""

    strings: tuple[str, ...] = ()
    min_tokens: int = 0
    include_stop: bool = False

    @property
    def tail(self) -> int:
        """Characters at the end of a text in which a stop string can have begun unseen."""
        return max((len(s) for s in self.strings), default=1) - 1


class TextCursor:
    """One reader's place in one answer's text.

    Holds at most `rules.tail` characters, and what the decoder keeps of one character.
    """

    __slots__ = ("_decoder", "_held", "_hold", "_include_stop", "_out")

    def __init__(self, decoder: TokenDecoder, rules: StopRules) -> None:
        self._decoder = decoder
        self._include_stop = rules.include_stop
        self._hold = 0 if rules.include_stop else rules.tail
        self._held = ""
        self._out = 0

    def skip(self, token_ids: Sequence[int]) -> None:
        """Go to behind these tokens, which must be the answer's first, without their text."""
        self.take(token_ids)

    def take(self, token_ids: Sequence[int]) -> str:
        """Return the text of the next tokens, none of which is the answer's last."""
        text = self._held + self._decoder.decode(token_ids)
        out = max(0, len(text) - self._hold)
        self._held = text[out:]
        self._out += out
        return text[:out]

    def take_last(
        self, token_ids: Sequence[int], *, last_is_stop: bool, upto: int | None = None
    ) -> str:
        """Return the text of the answer's last tokens, and what was held back.

        `last_is_stop`: the last of them ended the generation and is no text. `upto`: the number
        of characters of the whole answer, where a stop string cuts it.
        """
        if last_is_stop and not self._include_stop:
            token_ids = token_ids[:-1]
        text = self._held + self._decoder.decode(token_ids)
        self._held = ""
        if upto is not None:
            text = text[: max(0, upto - self._out)]
        self._out += len(text)
        return text
