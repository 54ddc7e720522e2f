"""Finding stop strings in an answer while it is decoded.

Rules:

1. A stop string is found wherever it lies across tokens. With several, the one that completes
   first wins; at the same place, the first in the request's list.
2. It counts only in text of tokens after the first `min_tokens`.
3. Tokens after the one that completes a stop string are not part of the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.stream.text import StopRules, TokenDecoder


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string was found.

    The first `tokens_kept` of the tokens that were fed last belong to the answer, and the first
    `characters` of its text.
    """

    string: str
    tokens_kept: int
    characters: int


class StopWatch:
    """Watches one answer. Holds no more text than a stop string can reach back into."""

    __slots__ = ("_decoder", "_dropped", "_kept", "_rules", "_tokens")

    def __init__(self, decoder: TokenDecoder, rules: StopRules) -> None:
        self._decoder = decoder
        self._rules = rules
        self._kept = ""  # the text's end, as far as a match can reach into it
        self._dropped = 0  # characters before it
        self._tokens = 0

    def feed(self, token_ids: Sequence[int], *, last_is_stop: bool = False) -> StopMatch | None:
        """Take the next tokens; nothing may be fed after a match.

        `last_is_stop`: the last of them ended the generation and is no text.
        """
        rules = self._rules
        skip = last_is_stop and not rules.include_stop
        for position, token_id in enumerate(token_ids):
            self._tokens += 1
            if skip and position == len(token_ids) - 1:
                break
            piece = self._decoder.decode_token(token_id)
            if not piece:
                continue
            self._kept += piece
            if self._tokens > rules.min_tokens and (found := self._search(len(piece))):
                start, end, string = found
                characters = self._dropped + (end if rules.include_stop else start)
                return StopMatch(string, position + 1, characters)
            drop = max(0, len(self._kept) - rules.tail)
            self._kept = self._kept[drop:]
            self._dropped += drop
        return None

    def _search(self, new_characters: int) -> tuple[int, int, str] | None:
        """Start, end and string of the match that ends first in the newest characters."""
        kept = self._kept
        best: tuple[int, int, str] | None = None
        for string in self._rules.strings:
            at = kept.find(string, max(0, len(kept) - new_characters - len(string) + 1))
            if at >= 0 and (best is None or at + len(string) < best[1]):
                best = (at, at + len(string), string)
        return best
