"""The page's parser and eventsource-parser, with cases like those of the Web Platform Tests.

https://github.com/web-platform-tests/wpt/tree/master/eventsource: what is expected is what
browsers' own EventSource does.
"""

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway_sse.native.events import SseEncoder
from tests.gateway_sse.page.node import run_module
from tokenstream_client import Delta, Started

PARSERS = {
    "the page's": """
        import { readEvents } from "page/sse.js";
        const parse = (body) => readEvents(body);
    """,
    "eventsource-parser": """
        import { EventSourceParserStream } from "eventsource-parser/stream";
        async function* parse(body) {
            const text = body.pipeThrough(new TextDecoderStream());
            let last = "";
            for await (const { event, data, id } of text.pipeThrough(new EventSourceParserStream()))
                yield { event: event || "message", data, id: (last = id ?? last) };
        }
    """,
}
PARSE_ALL = """
    const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const answers = [];
    for (const chunks of given) {
        const body = new ReadableStream({
            start(controller) {
                for (const chunk of chunks) controller.enqueue(bytes(chunk));
                controller.close();
            },
        });
        const events = [];
        for await (const { event, data, id } of parse(body)) events.push([event, data, id]);
        answers.push(events);
    }
    tell(answers);
"""

Event = tuple[str, str, str]


def message(data: str, event_id: str = "") -> Event:
    return ("message", data, event_id)


# From the WPT's format-*.any.js, by their names there.
CASES: dict[str, tuple[bytes, list[Event]]] = {
    "bom": (
        b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n",
        [message("1"), message("3")],
    ),
    "bom-2": (
        b"\xef\xbb\xbf\xef\xbb\xbfdata:1\n\ndata:2\n\ndata:3\n\n",
        [message("2"), message("3")],
    ),
    "comments": (
        b"data:1\r:\0\n:\r\ndata:2\n:"
        + b"x" * 2048
        + b"\rdata:3\n:data:fail\r:"
        + b"x" * 2048
        + b"\ndata:4\n\n",
        [message("1\n2\n3\n4")],
    ),
    "data-before-final-empty-line": (
        b"retry:1000\ndata:test1\n\nid:test\ndata:test2",
        [message("test1")],
    ),
    "field-data": (
        b"data:\n\ndata\ndata\n\ndata:test\n\n",
        [message(""), message("\n"), message("test")],
    ),
    "field-event": (b"event:test\ndata:x\n\ndata:x\n\n", [("test", "x", ""), message("x")]),
    "field-event-empty": (b"event: \ndata:data\n\n", [message("data")]),
    "field-id": (b"id:1\ndata:x\n\ndata:y\n\n", [message("x", "1"), message("y", "1")]),
    "field-parsing": (
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\r"
        b"data:\r\n data:32\ndata:4\n\n",
        [message("\0\n 2\n1\n3\n\n4")],
    ),
    "field-unknown": (
        b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n",
        [message("test\n\ntest")],
    ),
    "leading-space": (b"data:\ttest\rdata: \ndata:test\n\n", [message("\ttest\n\ntest")]),
    "newlines": (b"data:test\r\ndata\ndata:test\r\n\r\n", [message("test\n\ntest")]),
    "null-character": (b"data:\0\n\n\n\n", [message("\0")]),
    "utf-8": ("data:oké…\n\n".encode(), [message("oké…")]),
    "mixed line ends": (
        b"data:1\r\n\rdata:2\n\r\ndata:3\r\r\n",
        [message("1"), message("2"), message("3")],
    ),
    "broken utf-8": (b"data:\xff\xf0\x9f\n\n", [message("\ufffd\ufffd")]),
    "four bytes": ("data:🙂\u2028你\x85\n\n".encode(), [message("🙂\u2028你\x85")]),
    "a long line": (b"data:" + b"y" * 20_000 + b"\n\n", [message("y" * 20_000)]),
}


def parse(parser: str, bodies: list[list[bytes]]) -> list[list[Event]]:
    """Parse bodies, each given in chunks."""
    given = [[base64.b64encode(chunk).decode() for chunk in chunks] for chunks in bodies]
    answers: list[list[list[Any]]] = run_module(PARSERS[parser] + PARSE_ALL, given)
    return [[(event, data, last) for event, data, last in events] for events in answers]


def in_pieces(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("size", [1, 3, 7, 1 << 20])
def test_an_event_stream_means_what_it_means_to_eventsource(parser: str, size: int) -> None:
    bodies = [in_pieces(body, size) for body, _ in CASES.values()]
    answers = parse(parser, bodies)
    assert dict(zip(CASES, answers, strict=True)) == {
        name: expected for name, (_, expected) in CASES.items()
    }


def test_a_lone_cr_ends_a_line_at_once() -> None:
    # eventsource-parser waits for what could be half of a CR LF.
    body = b"data:1\rdata:2\r\rdata:3\r\r"
    expected = [message("1\n2"), message("3")]
    assert parse("the page's", [[body], in_pieces(body, 1)]) == [expected, expected]


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(1, 40)),
        min_size=40,
        max_size=40,
    )
)
def test_any_text_of_the_bridge_arrives_unchanged(answers: list[tuple[list[str], int]]) -> None:
    bodies = []
    for texts, size in answers:
        encoder = SseEncoder()
        body = encoder.started(Started("s", "m", 1, ""))
        for index, text in enumerate(texts):
            body += encoder.delta(Delta(0, index, (1,), text))
        bodies.append(in_pieces(body + encoder.end(), size))
    for parser in PARSERS:
        for (texts, _), events in zip(answers, parse(parser, bodies), strict=True):
            tokens = [data for event, data, _ in events if event == "message"][:-1]
            assert "".join(json.loads(data)["token"] for data in tokens) == "".join(texts)
