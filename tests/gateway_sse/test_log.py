"""One line for each request; and no word of a prompt, an answer or a key in any."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest
import structlog
from websockets.asyncio.client import connect

from gateway_sse import logs
from gateway_sse.config import GatewaySettings
from gateway_sse.streaming.outlet import Outlet
from tests.clients.script import Fail, answer, deltas, reason, started
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.browsers import PATH, read_some, reading
from tests.gateway_sse.conftest import Gateway

CANARY = "canary-4c1f"
TRACE = "0af7651916cd43dd8448eb211c80319c"
FAILED = Fail(grpc.StatusCode.INTERNAL, CANARY, [reason("R")])


@pytest.fixture
def settings(service: ScriptedService) -> GatewaySettings:
    return GatewaySettings(upstream=service.target, listen="127.0.0.1:0", linger_s=0)


@pytest.fixture
def own_logging(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[], None]]:
    """Logs to the test's own standard error, once it is called from there."""
    configure = structlog.configure

    def without_cache(**how: Any) -> None:  # or loggers would keep this test's standard error
        configure(**how | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", without_cache)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # or they would be closed
    yield lambda: logs.configure("json", "debug")
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level
    logging.getLogger("tokenstream").setLevel(logging.NOTSET)


def ended(capsys: pytest.CaptureFixture[str], event: str = "request_ended") -> list[dict[str, Any]]:
    """The lines of requests so far, without figures that differ each time."""
    err = capsys.readouterr().err
    assert CANARY not in err
    lines = [json.loads(line) for line in err.splitlines()]
    return [line for line in lines if line["event"] == event]


async def test_a_line_has_ids_outcome_tokens_and_times(
    service: ScriptedService,
    gateway: Gateway,
    own_logging: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_logging()
    service.script = answer(CANARY, "b")
    headers = {
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        "authorization": f"Bearer {CANARY}",
    }
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as http:
        await http.get(PATH, params={"prompt": CANARY})
    (line,) = ended(capsys)
    total_s = line.pop("total_s")
    assert 0 < total_s < 5
    del line["timestamp"], line["service_first_token_s"]
    stream = line.pop("stream")
    assert len(stream) == 8
    assert line == {
        "event": "request_ended",
        "level": "info",
        "method": "GET",
        "route": PATH,
        "status": 200,
        "trace_id": TRACE,
        "outcome": "complete",
        "finish": "length",
        "prompt_tokens": 3,
        "tokens": 2,
    }


@pytest.mark.parametrize(
    ("script", "outcome", "status"),
    [
        ([FAILED], "refused", 500),
        ([started(), *deltas(CANARY), FAILED], "failed", 200),
    ],
)
async def test_what_fails_has_a_line_without_its_words(
    service: ScriptedService,
    gateway: Gateway,
    own_logging: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    script: Any,
    outcome: str,
    status: int,
) -> None:
    own_logging()
    service.script = script
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        await http.post(PATH, json={"prompt": CANARY})
    (line,) = ended(capsys)
    assert (line["outcome"], line["status"]) == (outcome, status)


async def test_what_nobody_expected_is_logged_without_the_path_that_names_a_stream(
    gateway: Gateway,
    own_logging: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(_: str) -> None:
        raise RuntimeError(CANARY)

    own_logging()
    monkeypatch.setattr(gateway.streams, "find", fails)
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        path = f"/v1/streams/{CANARY}/ack"
        assert (await http.post(path, json={"next_token_index": 1})).status_code == 500
    (line,) = ended(capsys, "a request failed: POST /v1/streams/{stream_id}/ack")
    assert line["level"] == "error"


async def test_what_is_refused_by_the_bridge_has_its_reason_and_nobodys_path(
    gateway: Gateway, own_logging: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    own_logging()
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        await http.post(PATH, json={"prompt": CANARY, "top_p": CANARY})
        await http.post("/v1/chat/completions", content=CANARY)
        await http.get(f"/v1/{CANARY}")
        await http.delete(f"/v1/streams/{CANARY}")
        await http.get(PATH, headers={"authorization": f"Bearer {CANARY} {CANARY}"})
        await http.get("/", params={"q": CANARY})
    lines = ended(capsys)
    assert [(line["route"], line["status"]) for line in lines[:3]] == [
        (PATH, 400),
        ("/v1/chat/completions", 415),
        ("other", 404),
    ]
    assert lines[3]["route"] == "/v1/streams/{stream_id}"
    assert all("reason" in line for line in lines[:3])
    assert [line["level"] for line in lines].count("debug") == 1  # the page is none of our work


async def test_a_client_that_leaves_and_a_bug_have_lines_too(
    service: ScriptedService,
    gateway: Gateway,
    own_logging: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_logging()
    service.script = [started(), *deltas(CANARY), asyncio.Event()]
    async with reading(gateway.url, prompt=CANARY) as events:
        await read_some(events, 1)
    async with asyncio.timeout(10):
        while not (lines := ended(capsys)):
            await asyncio.sleep(0.01)
    assert lines[0]["outcome"] == "left"

    def broken(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(Outlet, "open", broken)
    service.script = answer(CANARY)
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.post(PATH, json={"prompt": CANARY})).status_code == 500
    (line,) = ended(capsys)
    assert (line["status"], line["reason"]) == (500, "GATEWAY_FAILED")


async def test_each_answer_on_a_websocket_has_a_line_of_its_own(
    service: ScriptedService,
    gateway: Gateway,
    own_logging: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_logging()
    service.script = answer(CANARY)
    async with connect(f"ws{gateway.url.removeprefix('http')}/v1/completions/ws") as ws:
        for identity in "ab":
            request = {"type": "start", "id": identity, "request": {"prompt": CANARY}}
            await ws.send(json.dumps(request))
            while json.loads(await ws.recv())["type"] != "finished":
                pass
        await ws.send(CANARY)
        await ws.recv()
    lines = ended(capsys, "answer_ended")
    assert [line["outcome"] for line in lines] == ["complete"] * 2
    assert all(line["tokens"] == 1 for line in lines)


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
async def test_a_service_out_of_reach_is_logged_once_with_the_cause_and_once_when_it_is_back(
    service: ScriptedService,
    gateway: Gateway,
    own_logging: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    path: str,
) -> None:
    own_logging()
    async with httpx.AsyncClient(base_url=gateway.url) as http:

        async def ask(script: Any) -> tuple[int, list[tuple[str, str, str]]]:
            service.script = script
            request = {"model": "scripted", "prompt": CANARY}
            status = (await http.post(path, json=request)).status_code
            err = capsys.readouterr().err
            assert CANARY not in err
            lines = [json.loads(line) for line in err.splitlines()]
            return status, [
                (line["level"], line["event"], line.get("why", ""))
                for line in lines
                if line["event"].startswith("upstream_")
            ]

        draining = Fail(grpc.StatusCode.UNAVAILABLE, "draining", [reason("DRAINING")])
        lost = Fail(grpc.StatusCode.UNAVAILABLE, "127.0.0.1:1: Connection refused")
        assert await ask(answer("a")) == (200, [])
        assert await ask([draining]) == (503, [])
        why = "127.0.0.1:1: Connection refused"
        assert await ask([lost]) == (503, [("warning", "upstream_unreachable", why)])
        assert await ask([lost]) == (503, [])
        assert await ask(answer("a")) == (200, [("info", "upstream_reached_again", "")])
        assert await ask(answer("a")) == (200, [])


def test_what_nobody_catches_is_logged_without_its_words(
    own_logging: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    own_logging()

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(logs.unexpected)

        async def fail() -> None:
            raise ValueError(CANARY) from KeyError(CANARY)

        await asyncio.wait([asyncio.create_task(fail())])

    asyncio.run(run())
    (line,) = ended(capsys, "unexpected")
    assert [one["exc_type"] for one in line["exception"]] == ["ValueError", "KeyError"]
