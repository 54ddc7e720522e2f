"""Answers held against the known tokens; what is wrong comes as words, None where nothing is."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import demo_model


def wrong_tokens(tokens: Sequence[int], answer: Sequence[int]) -> str | None:
    """Tell where tokens are not the answer's."""
    for position, (token, wanted) in enumerate(zip(tokens, answer, strict=False)):
        if token != wanted:
            return f"token {position} is {token}, not {wanted}"
    return None if len(tokens) == len(answer) else f"{len(tokens)} tokens of {len(answer)}"


def wrong_text(text: str, answer: Sequence[int]) -> str | None:
    """Tell where a text is not the answer's."""
    wanted = "".join(token_text(token) for token in answer)
    if text == wanted:
        return None
    same = next((i for i, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b), -1)
    return f"the text differs at {same}: {len(text)} characters of {len(wanted)}"


@cache
def token_text(token: int) -> str:
    """Return the text of a known token."""
    return str(_tokenizer().decode([token], skip_special_tokens=False))


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(demo_model.path() / "tokenizer.json"))
