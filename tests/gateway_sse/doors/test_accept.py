"""Which form an answer has."""

import pytest

from gateway_sse.doors.accept import preferred
from gateway_sse.native.routes import _ENCODERS

NAMES = dict(zip(_ENCODERS, _ENCODERS, strict=True))


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        ("", "*/*"),
        (",", "*/*"),
        ("text/event-stream", "text/event-stream"),
        ("text/plain, text/event-stream", "text/plain"),
        ("text/plain;q=0.5, text/event-stream", "text/event-stream"),
        ("text/plain;charset=utf-8;q=0.1,application/x-ndjson; q=0.2", "application/x-ndjson"),
        ("image/png, Text/Plain", "text/plain"),
        ("image/png, */*;q=0.1", "*/*"),
        ("text/plain;q=0, application/jsonl", "application/jsonl"),
        ("application/*", "application/*"),
        ("text/plain;q=nonsense", "text/plain"),
        ("image/png", None),
        ("text/plain;q=0", None),
        ("application/json", None),
    ],
)
def test_the_best_liked_form_is_chosen(header: str, chosen: str | None) -> None:
    assert preferred(header, NAMES) == chosen
