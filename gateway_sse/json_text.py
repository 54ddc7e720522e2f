"""JSON that no reader of lines cuts, for what is sent thousands of times a second. No I/O."""

import json
from json.encoder import encode_basestring  # C, where there is one
from typing import Final

# JSON escapes ASCII's line ends. These are none in SSE, but some parsers split at them anyway.
_LINE_ENDS: Final = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def json_text(text: str) -> str:
    """Return a text as JSON, without any line end in it."""
    quoted: str = encode_basestring(text)
    return quoted if quoted.isascii() else _in_one_line(quoted)


def json_of(value: object) -> str:
    """Return a value as JSON, without any line end in it."""
    return _in_one_line(_ENCODER.encode(value))


def _in_one_line(text: str) -> str:
    # Looking is a fifth of translating, and most text has none of them.
    if not text.isascii() and ("\u2028" in text or "\u2029" in text or "\x85" in text):
        return text.translate(_LINE_ENDS)
    return text
