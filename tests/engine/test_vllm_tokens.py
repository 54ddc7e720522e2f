"""Bytes of tokens, of a tokenizer that writes bytes which are no text as `<0xE2>`."""

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

PIECES = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "\u2581hé", "lo"]
UNUSED = len(PIECES) + 5


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """As Llama 2's."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    written = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": place,
                "content": PIECES[place],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for place in (0, 1)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "vocab": {piece: place for place, piece in enumerate(PIECES)},
            "merges": [],
        },
    }
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(written)))


@pytest.mark.parametrize(
    ("piece", "raw"),
    [
        ("<0xE2>", b"\xe2"),
        ("<0x0A>", b"\n"),
        ("lo", b"lo"),
        ("\u2581hé", " hé".encode()),
        ("</s>", b"</s>"),
    ],
)
def test_a_tokens_bytes_are_its_own(tokenizer: Any, piece: str, raw: bytes) -> None:
    from service.engine.vllm_tokens import DecodedTokens

    tokens = DecodedTokens(tokenizer)
    place = PIECES.index(piece)
    assert tokens[place] == raw
    assert tokens == {place: raw}, "it is worked out once"


def test_an_id_that_is_no_token_has_no_bytes(tokenizer: Any) -> None:
    from service.engine.vllm_tokens import DecodedTokens

    assert DecodedTokens(tokenizer)[UNUSED] == b""


def test_without_a_tokenizer_there_are_no_bytes() -> None:
    from service.engine.vllm_tokens import DecodedTokens

    assert DecodedTokens(None)[7] == b""
