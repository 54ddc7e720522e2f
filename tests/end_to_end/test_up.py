"""The whole thing as a user runs it: `tokenstream up`, the command line, curl, the page."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.chromium import ARGUMENTS, chromium

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

READY_WITHIN_S = 150
ENDS_WITHIN_S = 40
QUESTION = "What is gRPC?"
ANSWER = "gRPC is a system for calling functions of another program over the network."
PROGRAM = [sys.executable, "-m", "tokenstream_cli.main"]


@dataclass(frozen=True, slots=True)
class Up:
    """A running `tokenstream up`."""

    process: subprocess.Popen[str]
    service: str
    gateway: str
    log: Path
    metrics: str

    def metrics_text(self) -> str:
        """The service's metrics."""
        return httpx.get(f"http://{self.metrics}/metrics").text

    def requests_ended(self) -> dict[str, float]:
        """The service's counts of ended requests by outcome."""
        found = re.findall(
            r'^tokenstream_requests_total\{outcome="(\w+)",tenant=""\} (\S+)$',
            self.metrics_text(),
            re.M,
        )
        return {outcome: float(count) for outcome, count in found}

    def until_running(self, streams: int) -> None:
        """Wait until so many streams are running."""
        deadline = time.monotonic() + 15
        while f"\ntokenstream_streams_running {streams}.0\n" not in self.metrics_text():
            assert time.monotonic() < deadline, self.metrics_text()
            time.sleep(0.02)

    def until_ended(self, outcome: str, count: float, within_s: float) -> None:
        """Wait until so many requests ended so; fails with the counts if they do not."""
        deadline = time.monotonic() + within_s
        while (counts := self.requests_ended())[outcome] < count:
            assert time.monotonic() < deadline, counts
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    log = tmp_path_factory.mktemp("up") / "log"
    service, gateway, metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))
    with log.open("w") as out:
        process = subprocess.Popen(
            [*PROGRAM, "up", "--listen", service, "--gateway-listen", gateway],
            stdout=out,
            stderr=subprocess.STDOUT,
            # As a user's shell has it: an engine in this process may have set vLLM's variables.
            env={name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
            | {"TOKENSTREAM_METRICS_LISTEN": metrics},
            text=True,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_WITHIN_S
        while "Ctrl-C ends it" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        try:
            yield Up(process, service, gateway, log, metrics)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(ENDS_WITHIN_S)


@pytest.fixture(scope="module")
def page(up: Up) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        page = browser.new_context().new_page()
        page.goto(f"http://{up.gateway}/")
        yield page
        browser.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, timeout=60)


def test_generate_prints_the_answer_and_nothing_else(up: Up) -> None:
    done = run("generate", "--server", up.service, "--temperature", "0", QUESTION)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(ANSWER)
    assert done.stderr == ""


def test_generate_as_json_prints_one_event_a_line(up: Up) -> None:
    done = run("generate", "--server", up.service, "--json", "--max-tokens", "5", QUESTION)

    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert sum(len(e["token_ids"]) for e in events if e["event"] == "delta") == 5


def test_generate_with_a_bad_field_names_it_and_fails(up: Up) -> None:
    done = run("generate", "--server", up.service, "--top-p", "1.5", QUESTION)

    assert done.returncode == 1
    assert "sampling.top_p" in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupting_generate_ends_the_request_on_the_service(up: Up) -> None:
    before = up.requests_ended()["cancelled"]
    process = subprocess.Popen(
        [*PROGRAM, "generate", "--server", up.service, "--ignore-eos", QUESTION],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.read(10)

    process.send_signal(signal.SIGINT)

    process.stdout.read()
    process.stdout.close()
    assert process.wait(10) == 130
    up.until_ended("cancelled", before + 1, within_s=5)


def test_curl_gets_server_sent_events_that_end_with_done(up: Up) -> None:
    body = json.dumps({"prompt": QUESTION, "temperature": 0})
    url = f"http://{up.gateway}/v1/completions/stream"
    done = subprocess.run(
        ["curl", "--silent", "-N", url, "-H", "content-type: application/json", "-d", body],
        capture_output=True,
        text=True,
        timeout=60,
    )

    tokens = re.findall(r'^data: ?(\{"token".*\})\r?$', done.stdout, re.M)
    assert "".join(json.loads(t)["token"] for t in tokens).strip().startswith(ANSWER)
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_a_bad_request_to_the_bridge_is_an_http_status_that_names_the_field(up: Up) -> None:
    answer = httpx.post(
        f"http://{up.gateway}/v1/completions/stream", json={"prompt": QUESTION, "max_tokens": 0}
    )

    assert answer.status_code == 400
    assert answer.json()["error"]["field_violations"][0]["field"].endswith("max_tokens")


@pytest.mark.browser
def test_the_page_chats_and_shows_its_figures(page: Page) -> None:
    page.locator("#prompt").fill(QUESTION)
    page.locator("#send").click()

    expect(page.locator(".turn:last-child .answer-text")).to_contain_text(ANSWER, timeout=15_000)
    expect(page.locator(".turn:last-child [data-figure='first-token']")).to_have_text(
        re.compile(r"\d")
    )
    expect(page.locator(".turn:last-child [data-figure='rate']")).to_have_text(re.compile(r"\d"))


@contextmanager
def engine_held(up: Up) -> Iterator[None]:
    """Stop the engine's processes, so that no answer can end by itself meanwhile."""
    engine = [
        child
        for child in psutil.Process(up.process.pid).children(recursive=True)
        if any("VLLM::" in part for part in child.cmdline())
    ]
    assert engine
    try:
        for process in engine:
            process.suspend()
        yield
    finally:
        for process in engine:
            process.resume()


@pytest.mark.browser
def test_the_pages_stop_button_ends_the_request_on_the_service(up: Up, page: Page) -> None:
    up.until_running(0)  # the last test's answer has ended before the engine is held
    expect(page.locator("#send")).to_be_visible()
    before = up.requests_ended()["cancelled"]
    with engine_held(up):
        page.locator("#prompt").fill("Tell me a story about a token.")
        page.locator("#send").click()
        up.until_running(1)

        page.locator("#stop").click()

        up.until_ended("cancelled", before + 1, within_s=5)
        expect(page.locator("#status")).to_have_text(re.compile("[Ss]topped"))


def test_an_interrupt_ends_both_cleanly_and_leaves_nothing_behind(up: Up) -> None:
    family = psutil.Process(up.process.pid).children(recursive=True)
    assert len(family) >= 4, "the service, the bridge, the engine and its worker"

    up.process.send_signal(signal.SIGINT)

    assert up.process.wait(ENDS_WITHIN_S) == 0, up.log.read_text()
    log = up.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
    assert "leak" not in log
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    for address in (up.service, up.gateway):
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=1).close()
