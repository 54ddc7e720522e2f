"""What one stream keeps of its tokens' log-probabilities, where its request asked for them.

Rules:

1. Row i belongs to token `first_kept` + i of its stream: rows come with their tokens and are
   forgotten with them. Rows behind the stream's last token, which a stop string has cut off, are
   nobody's.
2. Numbers are kept as they come, flat; what a reader gets is made of them when it takes.
3. Bound: eight bytes for each of the request's `logprobs` and one more, with each token: 168 bytes
   a token at most, for as long as the stream keeps the token itself.
"""

from array import array
from collections.abc import Callable

from service.domain import LikelyToken, LogprobRows, TokenLogprobs


class LogprobColumn:
    """See the rules above. `likeliest`: how many of the likeliest tokens were asked for.

    `token_bytes`: a token's own bytes.
    """

    __slots__ = ("_ids", "_logprobs", "_token_bytes", "_width")

    def __init__(self, likeliest: int, token_bytes: Callable[[int], bytes]) -> None:
        self._width = likeliest + 1
        self._token_bytes = token_bytes
        self._ids = array("I")
        self._logprobs = array("f")

    def add(self, rows: LogprobRows) -> None:
        """Take the rows of the next tokens."""
        width = self._width
        for token_ids, logprobs in zip(*rows, strict=True):
            self._ids.extend(token_ids[:width])
            self._logprobs.extend(logprobs[:width])

    def take(self, begin: int, end: int) -> tuple[TokenLogprobs, ...]:
        """Return those of the rows `begin` to `end`, which stay until they are forgotten."""
        return tuple(self._row(row * self._width) for row in range(begin, end))

    def forget(self) -> None:
        """Forget all rows."""
        del self._ids[:]
        del self._logprobs[:]

    def _row(self, at: int) -> TokenLogprobs:
        token_bytes, ids, logprobs = self._token_bytes, self._ids, self._logprobs
        return TokenLogprobs(
            logprobs[at],
            token_bytes(ids[at]),
            tuple(
                LikelyToken(ids[i], logprobs[i], token_bytes(ids[i]))
                for i in range(at + 1, at + self._width)
            ),
        )
