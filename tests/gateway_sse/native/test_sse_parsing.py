"""Event streams through two parsers that others wrote: ours, and the web platform's test cases.

The cases are those of web-platform-tests (eventsource/format-*): what a stream means is theirs to
say. Where a parser is known to differ from them it is named, so that it is noticed when it no
longer does; none of that may matter to what the bridge sends.
"""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

import httpx
import pytest
from httpx_sse import EventSource

from gateway_sse.native.events import SseEncoder
from gateway_sse.problems import INTERNAL
from tests.gateway_sse.openai_clients.callers import NodeWorker
from tokenstream_client import Delta, Finished, FinishReason, Started, Timings, Usage

LONG = "x" * 2000


class Seen(NamedTuple):
    event: str
    data: str
    id: str = ""


def messages(*data: str) -> list[Seen]:
    return [Seen("message", text) for text in data]


CASES: Final[dict[str, tuple[str, list[Seen]]]] = {
    "bom": ("\ufeffdata:1\n\n\ufeffdata:2\n\ndata:3\n\n", messages("1", "3")),
    "two boms": ("\ufeff\ufeffdata:1\n\ndata:2\n\ndata:3\n\n", messages("2", "3")),
    "comments": (
        f"data:1\r:\0\n:\r\ndata:2\n:{LONG}\rdata:3\n:data:fail\r:{LONG}\ndata:4\n\n",
        messages("1\n2\n3\n4"),
    ),
    "no empty line at the end": ("retry:1000\ndata:1\n\nid:test\ndata:2", messages("1")),
    "data": ("data:\n\ndata\ndata\n\ndata:test\n\n", messages("", "\n", "test")),
    "event": ("event:test\ndata:x\n\ndata:x\n\n", [Seen("test", "x"), Seen("message", "x")]),
    "empty event": ("event: \ndata:data\n\n", messages("data")),
    "id": (
        "id:1\ndata:1\n\ndata:2\n\nid\ndata:3\n\n",
        [Seen("message", "1", "1"), Seen("message", "2", "1"), Seen("message", "3", "")],
    ),
    "id with nul": ("id: 1\0\ndata:ok\n\n", messages("ok")),
    "fields": (
        "data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n"
        " data:32\ndata:4\n\n",
        messages("\0\n 2\n1\n3\n\n4"),
    ),
    "bogus retry": ("retry:3000\nretry:1000x\ndata:x\n\n", messages("x")),
    "empty retry": ("retry\ndata:test\n\n", messages("test")),
    "unknown fields": (
        "data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\n\n",
        messages("test\n"),
    ),
    "leading space": ("data:\ttest\rdata: \ndata:test\n\n", messages("\ttest\n\ntest")),
    "newlines": ("data:test\r\ndata\ndata:test\r\n\r\n", messages("test\n\ntest")),
    "nul": ("data:\0\n\n\n\n", messages("\0")),
    "utf-8": ("data:ok…😀\n\n", messages("ok…😀")),
    "other line ends": ("data:a\u2028b\x85c\x0bd\n\n", messages("a\u2028b\x85c\x0bd")),
    "long lines": (
        f"data:{'x' * 300_000}\ndata:{'é' * 9_000}\n\n",
        messages("x" * 300_000 + "\n" + "é" * 9_000),
    ),
}

Parse = Callable[[list[bytes]], Awaitable[list[Seen]]]

DIFFERS: Final[dict[str, set[str]]] = {"httpx-sse": {"bom"}, "eventsource-parser": set()}


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece


async def by_httpx_sse(pieces: list[bytes]) -> list[Seen]:
    headers = {"content-type": "text/event-stream"}
    response = httpx.Response(200, headers=headers, stream=_Pieces(pieces))
    source = EventSource(response)
    return [Seen(event.event, event.data, event.id) async for event in source.aiter_sse()]


@pytest.fixture(scope="module")
def node() -> Iterator[NodeWorker]:
    worker = NodeWorker("events.mjs")
    yield worker
    worker.close()


@pytest.fixture(params=["httpx-sse", "eventsource-parser"])
def parser(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def parse(parser: str, request: pytest.FixtureRequest) -> Parse:
    if parser == "httpx-sse":
        return by_httpx_sse
    node: NodeWorker = request.getfixturevalue("node")

    async def by_eventsource_parser(pieces: list[bytes]) -> list[Seen]:
        said: dict[str, Any] = await node.run(
            {"pieces": [base64.b64encode(piece).decode() for piece in pieces]}
        )
        return [Seen(event["event"], event["data"], event["id"]) for event in said["events"]]

    return by_eventsource_parser


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and in two at a hundred places."""
    yield [data]
    if len(data) < 20_000:
        yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data), max(1, len(data) // 100)):
        yield [data[:at], data[at:]]


@pytest.mark.parametrize("name", CASES)
async def test_the_platforms_cases_mean_to_both_parsers_what_they_should(
    name: str, parser: str, parse: Parse
) -> None:
    text, expected = CASES[name]
    right = [await parse(pieces) == expected for pieces in cuts(text.encode())]
    assert all(right) == (name not in DIFFERS[parser])


LINE_ENDS = ["\r", "\n", "\r\n", "\u2028\x85\x0b\x0c\x1c"]
TEXTS = [*LINE_ENDS, "Grüße", "\0", "data: x\n\n", "😀", ": c", "id: 1\n", "\ufeff", " ", '"']
TEXTS += ["event: error\n", "\\u0000", "x" * 5000]


def whole_answer() -> tuple[bytes, list[Seen]]:
    """What the bridge sends for an answer, with comments in between, and what that is."""
    encoder, keepalive = SseEncoder(), SseEncoder.keepalive
    finished = Finished(
        0, FinishReason.STOP, "STOP", None, Usage(3, len(TEXTS), 0), Timings(0.1, 0.2)
    )
    pieces = [encoder.started(Started("s", "demo", 3, "mine\u2028"))]
    pieces += [encoder.delta(Delta(0, at, (at,), text)) for at, text in enumerate(TEXTS)]
    pieces += [encoder.delta(Delta(0, len(TEXTS), (), "tail"))]
    pieces += [encoder.finished(finished), encoder.failed(INTERNAL), encoder.end()]
    ids = [f"s:{at}" for at in range(len(TEXTS) + 1)]
    end = f"{ids[-1]}:end"
    expected = [("started", ids[0])] + [("message", identity) for identity in ids[1:]]
    expected += [("message", f"{ids[-1]}:tail"), ("finished", end), ("error", end)]
    expected += [("message", end)]
    data = [piece.decode().partition("data: ")[2].removesuffix("\n\n") for piece in pieces]
    seen = [Seen(kind, text, at) for (kind, at), text in zip(expected, data, strict=True)]
    return keepalive + keepalive.join(pieces) + keepalive + encoder.moved(), seen


async def test_what_the_bridge_sends_is_the_same_to_both_however_it_is_cut(parse: Parse) -> None:
    data, expected = whole_answer()
    for pieces in cuts(data):
        assert await parse(pieces) == expected
