"""The bytes of events, held against a parser that is not ours."""

import json

import httpx
from httpx_sse import EventSource, ServerSentEvent
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_sse import encode
from gateway_sse.problems import Problem
from tokenstream_client import Delta, Started


def parse(data: bytes) -> list[ServerSentEvent]:
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=data)
    return list(EventSource(response).iter_sse())


# What protobuf can carry: everything but lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(st.lists(texts, min_size=1))
@example(["data: [DONE]\n\n", "\r", "\r\n", "event: error", "\u2028\u2029\u0085", "\x00", "é😀"])
def test_any_text_survives(pieces: list[str]) -> None:
    data = b"".join(
        encode.token(Delta(0, index, (7,), text), "s") for index, text in enumerate(pieces)
    )
    events = parse(data + encode.DONE)
    assert [event.event for event in events] == ["message"] * (len(pieces) + 1)
    assert [event.json() for event in events[:-1]] == [{"token": text} for text in pieces]
    assert events[-1].data == "[DONE]"


@given(texts)
def test_an_event_is_the_same_to_parsers_that_split_at_unicode_line_ends(text: str) -> None:
    data = encode.token(Delta(0, 0, (7,), text), "s").decode()
    assert data.splitlines() == [*data.removesuffix("\n\n").split("\n"), ""]


def test_a_token_event_has_one_data_line_with_one_name() -> None:
    assert encode.token(Delta(0, 4, (7, 8), 'a "b"'), "s1") == (
        b'id: s1:6\ndata: {"token": "a \\"b\\""}\n\n'
    )


def test_a_delta_without_text_is_nothing() -> None:
    assert encode.token(Delta(0, 0, (7,), ""), "s") == b""


def test_a_start_and_an_error_have_names_so_that_onmessage_does_not_get_them() -> None:
    (started,) = parse(encode.started(Started("s", "m", 3, "r")))
    assert started.event == "started"
    (error,) = parse(encode.error(Problem(500, "INTERNAL", "R", "line\nbreak")))
    assert error.event == "error"
    assert json.loads(error.data)["error"]["message"] == "line\nbreak"
