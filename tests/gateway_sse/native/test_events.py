"""A decoder that is not ours gets back what went in."""

import json

import pytest
from httpx_sse import ServerSentEvent
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st

from gateway_sse.native.event_id import EventId
from gateway_sse.native.events import SseEncoder
from gateway_sse.problems import Problem, Refused
from tokenstream_client import Delta, FieldViolation, Started

# What protobuf can carry: everything but lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
STARTED = Started("s", "demo", 3, "")


def encoder(resumed: EventId | None = None) -> SseEncoder:
    made = SseEncoder(resumed)
    made.started(STARTED)
    return made


def decode(encoded: bytes) -> list[ServerSentEvent]:
    lines, decoder = SSELineDecoder(), SSEDecoder()
    events = [decoder.decode(line) for line in lines.decode(encoded.decode())]
    return [event for event in events if event is not None]


@given(TEXT.filter(bool))
def test_any_text_survives(text: str) -> None:
    (event,) = decode(encoder().delta(Delta(0, 4, (1, 2), text)))
    assert event.event == "message"
    assert event.id == "s:6"
    assert json.loads(event.data) == {"token": text}


@given(TEXT.filter(bool))
def test_no_parser_can_split_a_text_at_its_line_ends(text: str) -> None:
    # str.splitlines knows more line ends than SSE does, and some parsers use it.
    encoded = encoder().delta(Delta(0, 0, (1,), text)).decode()
    assert len(encoded.splitlines()) == len(["id", "data", ""])


def test_a_delta_without_text_is_no_event() -> None:
    made = encoder()
    assert made.delta(Delta(0, 0, (1,), "")) == b""
    (event,) = decode(made.delta(Delta(0, 1, (2,), "é")))
    assert event.id == "s:2"


def test_a_tail_is_sent_once_however_often_the_reader_comes_back() -> None:
    made = encoder()
    made.delta(Delta(0, 0, (1, 2), "ab"))
    (event,) = decode(made.delta(Delta(0, 2, (), "c")))
    assert event.id == "s:2:tail"
    again = encoder(EventId.parse(event.id))
    assert again.delta(Delta(0, 2, (), "c")) == b""
    before = encoder(EventId.parse("s:2"))
    assert before.delta(Delta(0, 2, (), "c")) != b""


def test_a_failure_is_an_error_event_in_the_one_error_form() -> None:
    problem = Problem(400, "INVALID_ARGUMENT", "R", "no", (FieldViolation("f", "d"),), 1.5)
    (event,) = decode(encoder().failed(problem))
    assert event.event == "error"
    assert event.id == "s:0:end"
    assert event.json()["error"] == {
        "code": "INVALID_ARGUMENT",
        "reason": "R",
        "message": "no",
        "field_violations": [{"field": "f", "description": "d"}],
        "retry_after_s": 1.5,
    }


@given(
    st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["", ":tail", ":end"]),
)
def test_an_id_that_was_sent_is_read_back(stream: str, index: int, end: str) -> None:
    assert str(EventId.parse(f"{stream}:{index}{end}")) == f"{stream}:{index}{end}"


@pytest.mark.parametrize(
    "text", ["", "s", "s:", ":1", "s:-1", "s:1:x", "s:99999999999", "s:1:", "é:1"]
)
def test_any_other_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(Refused, match="Last-Event-ID"):
        EventId.parse(text)
