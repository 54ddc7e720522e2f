"""What a reader hands over, as one delta."""

from collections.abc import Sequence

from service.domain import Delta, TokenLogprobs
from service.stream.reader import StreamReader


class _One:
    """A message with one delta, or none."""

    def __init__(self) -> None:
        self.delta: Delta | None = None

    def add(
        self,
        tag: int,
        first: int,
        token_ids: Sequence[int],
        text: str,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> None:
        assert self.delta is None
        self.delta = Delta(first, token_ids, text, logprobs)

    def add_token(self, tag: int, index: int, token_id: int, text: str) -> None:
        self.add(tag, index, (token_id,), text)


def taken(reader: StreamReader) -> Delta | None:
    """Take what is due."""
    message = _One()
    assert reader.take_into(message) is reader.exhausted
    return message.delta
