"""Byte-level tokenizers to try: the demo model's own, and one with everything that is awkward."""

import json
from pathlib import Path

import demo_model

# As GPT-2 writes bytes: printable ones as themselves, the others from U+0100 on, in order.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [b for b in range(256) if b not in _PRINTABLE]
WRITTEN = {b: chr(b) for b in _PRINTABLE} | {b: chr(256 + n) for n, b in enumerate(_OTHERS)}

PIECES = [
    b" hello",
    b"\n\n",
    "é".encode(),
    "€ uro".encode(),
    b"\xe2\x82",  # the beginning of a character
    b"\x82\xac x",  # the end of one, and more
    b"a\xf0\x9f",
    b"\x98\x80",
    b"\xff\xfe",  # never UTF-8
    b"\xc3(",  # broken off
    b"\xed\xa0\x80",  # a surrogate, which is no UTF-8 either
    "\ufffd".encode(),
    b"a\xef\xbf\xbd",
    b"\xef\xbf",
    "\ufffdb".encode(),
    b"",
]
ADDED = [  # content, special
    ("<|end|>", True),
    ("<|im start|>", True),
    ("<é>", True),  # its characters are ones that bytes are written as
    ("<|日本|>", True),
    ("<plain>", False),
    ("two words", False),
    ("你好", False),
    ("éa", False),
    ("\ufffd", False),
    ("x\ufffd", True),
]
UNUSED_IDS = 3  # at the end: a model's table is often larger than its vocabulary


def awkward() -> str:
    """A `tokenizer.json`."""
    pieces = [bytes([b]) for b in range(256)] + [piece for piece in PIECES if piece]
    vocab = {"".join(WRITTEN[b] for b in piece): i for i, piece in enumerate(pieces)}
    first = len(pieces)
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": first + number,
                    "content": content,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": special,
                }
                for number, (content, special) in enumerate(ADDED)
            ],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            },
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocab,
                "merges": [],
            },
        }
    )


def of_the_demo_model() -> str:
    return Path(demo_model.path(), "tokenizer.json").read_text()
