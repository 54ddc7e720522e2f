"""Token ids to text: what is certain comes out, what is not is held back.

Rules:

1. Text never shows half a character: the decoder keeps incomplete UTF-8 until its rest comes. If
   it never comes, it is dropped, as vLLM drops it.
2. Stop strings are found wherever they lie across tokens. With several, the one that completes
   first wins; at the same place, the first in the request's list.
3. While a stop string could still begin in the text's tail (its longest length less one
   characters), that tail is held back, unless the request wants its stop string in the text.
4. A stop string counts only in text of tokens after the first `min_tokens`.
5. Tokens after the one that completes a stop string are not part of the answer.

Joined, the text equals vLLM's own for the same tokens; a property test holds both against each
other (tests/engine/test_text_like_vllm.py).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class TokenDecoder(Protocol):
    """Incremental decoder of one request's output; keeps incomplete characters to itself."""

    def decode(self, token_id: int) -> str:
        """Take the next token; return the text that became certain, possibly none."""


@dataclass(frozen=True, slots=True)
class StopRules:
    """What of a request's sampling options concerns its text."""

    strings: tuple[str, ...] = ()
    min_tokens: int = 0
    include_stop: bool = False


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string was found; the first `tokens_kept` tokens of those fed belong to the answer."""

    string: str
    tokens_kept: int


class TextAssembler:
    """One request's text.

    Holds no more than the text that was not taken yet and the tail that a stop string can reach
    into: its owner bounds the first by taking, `admission` bounds the second. Offsets count the
    characters of the whole answer.
    """

    __slots__ = (
        "_decoder",
        "_end",
        "_held",
        "_kept",
        "_kept_from",
        "_matched",
        "_rules",
        "_tail",
        "_taken",
        "_token_ends",
        "_tokens",
    )

    def __init__(self, decoder: TokenDecoder, rules: StopRules) -> None:
        self._decoder = decoder
        self._rules = rules
        self._tail = max((len(s) for s in rules.strings), default=1) - 1
        self._held = 0 if rules.include_stop else self._tail
        # The answer's characters from `_kept_from` to `_end`; those before `_taken` are given out
        # and stay only for the search.
        self._kept = ""
        self._kept_from = 0
        self._taken = 0
        self._end = 0
        # Where the text of each token ends that was fed step by step and not taken yet.
        self._token_ends: deque[int] = deque()
        self._tokens = 0
        self._matched = False

    @property
    def needs_every_step(self) -> bool:
        """Whether tokens must be fed as they come (to see a stop string), not at a flush."""
        return bool(self._rules.strings)

    def feed(self, token_ids: Sequence[int], *, last_is_stop: bool = False) -> StopMatch | None:
        """Decode tokens. `last_is_stop`: the last one ended the generation and is no text.

        Returns a match if a stop string completed. The caller feeds nothing after a match.
        """
        skip = last_is_stop and not self._rules.include_stop
        searching = bool(self._rules.strings)
        for position, token_id in enumerate(token_ids):
            self._tokens += 1
            if not (skip and position == len(token_ids) - 1):
                piece = self._decoder.decode(token_id)
                if piece:
                    self._kept += piece
                    self._end += len(piece)
                    if searching and self._tokens > self._rules.min_tokens:
                        string = self._search(len(piece))
                        if string is not None:
                            self._token_ends.append(self._end)
                            return StopMatch(string, position + 1)
            if searching:
                self._token_ends.append(self._end)
        return None

    def take(self, tokens: int, *, final: bool) -> str:
        """Give out the text that is certain of the next `tokens` tokens; with `final` all text."""
        upto = self._end
        for _ in range(min(tokens, len(self._token_ends))):
            upto = self._token_ends.popleft()
        if final:
            upto = self._end
        elif not self._matched:
            upto = min(upto, self._end - self._held)
        if upto <= self._taken:
            return ""
        out = self._kept[self._taken - self._kept_from : upto - self._kept_from]
        self._taken = upto
        forget = max(0, upto - self._tail - self._kept_from)
        if forget:
            self._kept = self._kept[forget:]
            self._kept_from += forget
        return out

    def _search(self, new_characters: int) -> str | None:
        """Look for a stop string that ends in the newest characters; cut the text at it."""
        kept = self._kept
        best: tuple[int, int, str] | None = None
        for string in self._rules.strings:
            at = kept.find(string, max(0, len(kept) - new_characters - len(string) + 1))
            if at >= 0 and (best is None or at + len(string) < best[0]):
                best = (at + len(string), at, string)
        if best is None:
            return None
        end, start, string = best
        keep = max(end if self._rules.include_stop else start, self._taken - self._kept_from)
        self._kept = kept[:keep]
        self._end = self._kept_from + keep
        self._matched = True
        return string
