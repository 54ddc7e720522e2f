"""Deltas of several readers, side by side: entry i of the first four lists is one delta."""

from collections.abc import Sequence

from service.domain import TokenLogprobs


class DeltaColumns:
    """What one message has for all its readers; `token_ids` holds the deltas' tokens in order.

    So does `logprobs`, and `logprob_counts` says how many a delta has; it can end early: the
    deltas behind its end have none.
    """

    __slots__ = (
        "first_token_indexes",
        "logprob_counts",
        "logprobs",
        "tags",
        "texts",
        "token_counts",
        "token_ids",
    )

    def __init__(self) -> None:
        self.tags: list[int] = []
        self.first_token_indexes: list[int] = []
        self.token_counts: list[int] = []
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        self.logprob_counts: list[int] = []

    def add(
        self,
        tag: int,
        first: int,
        token_ids: Sequence[int],
        text: str,
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> None:
        """Add one reader's delta."""
        if logprobs:
            self.logprob_counts += [0] * (len(self.tags) - len(self.logprob_counts))
            self.logprob_counts.append(len(logprobs))
            self.logprobs.extend(logprobs)
        self.tags.append(tag)
        self.first_token_indexes.append(first)
        self.token_counts.append(len(token_ids))
        self.texts.append(text)
        self.token_ids.extend(token_ids)

    def add_token(self, tag: int, index: int, token_id: int, text: str) -> None:
        """Add one reader's delta of one token."""
        self.tags.append(tag)
        self.first_token_indexes.append(index)
        self.token_counts.append(1)
        self.texts.append(text)
        self.token_ids.append(token_id)
