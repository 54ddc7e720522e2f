"""W3C Trace Context (https://www.w3.org/TR/trace-context/): which trace a request belongs to.

What is not well-formed is ignored, as the recommendation wants it: a caller's tracing never fails
its request.
"""

import re
from collections.abc import Iterable

MOST_CHARACTERS = 512
_HEADER = "traceparent"

# Version 00 has these four parts and no more; a later one may append to them (section 4.2).
_PARENT = re.compile(
    r"(?!ff)(?P<version>[0-9a-f]{2})"
    r"-(?!0{32})(?P<trace>[0-9a-f]{32})"
    r"-(?!0{16})[0-9a-f]{16}"
    r"-[0-9a-f]{2}(?P<more>-.*)?"
)


def trace_id_of(traceparent: str) -> str:
    """The trace's id, 32 hexadecimal digits; empty if the header is not well-formed."""
    if len(traceparent) > MOST_CHARACTERS:
        return ""
    parts = _PARENT.fullmatch(traceparent)
    if parts is None or (parts["version"] == "00" and parts["more"] is not None):
        return ""
    return parts["trace"]


def trace_id_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The id of the trace that a call's metadata names; empty if none or several do."""
    values = [value for name, value in metadata or () if name.lower() == _HEADER]
    if len(values) != 1 or not isinstance(values[0], str):
        return ""
    return trace_id_of(values[0])
