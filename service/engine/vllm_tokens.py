"""A token's own bytes, for tokenizers without a table of them (`byte_level` has one)."""

import re
from typing import Any

from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece writes one that is no text


class DecodedTokens(dict[int, bytes]):
    """UTF-8 of the decoded token, as vLLM's OpenAI server says it; a byte token is that byte.

    Bound: one entry for each token of the vocabulary. Without a tokenizer all are empty.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token_id: int) -> bytes:
        raw = self[token_id] = self._decode(token_id)
        return raw

    def _decode(self, token_id: int) -> bytes:
        if self._tokenizer is None:
            return b""
        (written,) = self._tokenizer.convert_ids_to_tokens([token_id])
        if written is None:  # a model's table is often larger than its vocabulary
            return b""
        if isinstance(written, str) and (byte := _BYTE.fullmatch(written)):
            return bytes.fromhex(byte[1])
        (text,) = convert_ids_list_to_tokens(self._tokenizer, [token_id])
        return str(text).encode(errors="replace")
