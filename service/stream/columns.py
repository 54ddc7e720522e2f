"""Deltas of several readers, side by side: entry i of the first four lists is one delta."""

from collections.abc import Sequence


class DeltaColumns:
    """What one message has for all its readers; `token_ids` holds the deltas' tokens in order."""

    __slots__ = ("first_token_indexes", "tags", "texts", "token_counts", "token_ids")

    def __init__(self) -> None:
        self.tags: list[int] = []
        self.first_token_indexes: list[int] = []
        self.token_counts: list[int] = []
        self.texts: list[str] = []
        self.token_ids: list[int] = []

    def add(self, tag: int, first: int, token_ids: Sequence[int], text: str) -> None:
        """Add one reader's delta."""
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
