"""The page, the bridge as a process of its own, and the real engine: whatever is lost on the way,
the text is the one of an uncut run.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx
import psutil
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from service.domain import EngineCensus
from tests.chromium import ARGUMENTS, chromium
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.end_to_end.conftest import RealService

pytestmark = [
    pytest.mark.engine,
    pytest.mark.browser,
    pytest.mark.alone,  # answers are cut in their midst, which lasts seconds
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
]

QUESTION = "Explain the life of a request step by step."
# Long enough to be cut in its midst for seconds: the demo model writes some 200 tokens a second.
LENGTH = 640
CUT_S = 3.0
NOTHING = EngineCensus(0, 0)
ANSWER = ".answer-text"
# From before the question on, every few milliseconds: an answer lasts four seconds.
WATCH = """() => { window.isStreaming = new Promise((resolve) => {
    const look = () =>
        document.querySelector(".answer-text")?.textContent.includes("Second,") &&
        document.querySelector("#status").textContent === "Streaming…"
            ? resolve() : setTimeout(look, 20);
    look();
}); }"""


@dataclass
class BridgeProcess:
    """`tokenstream gateway`, which can be killed and started again on its port."""

    upstream: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Return when it serves."""
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tokenstream_cli.main", "gateway"),
                *("--upstream", self.upstream, "--listen", f"127.0.0.1:{self.port}"),
            ]
        )
        async with httpx.AsyncClient() as http, asyncio.timeout(30):
            while True:
                try:
                    await http.get(f"http://127.0.0.1:{self.port}/healthz")
                    return
                except httpx.TransportError:
                    assert self.process.poll() is None
                    await asyncio.sleep(0.05)

    def end(self, number: int) -> None:
        """Send a signal, and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def bridge(real: RealService) -> AsyncIterator[BridgeProcess]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        bridge = BridgeProcess(real.address, free.getsockname()[1])
    await bridge.start()
    yield bridge
    bridge.end(signal.SIGTERM)


@pytest_asyncio.fixture(loop_scope="session")
async def network(bridge: BridgeProcess) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(f"127.0.0.1:{bridge.port}") as proxy:
        yield proxy


@pytest.fixture(scope="module")
def engine_yields(real: RealService) -> Iterator[None]:
    """A browser is on a machine of its own; on this one the engine takes every core, for as long as
    an answer lasts, and a page that gets none of them sees the whole answer at once.
    """
    assert real
    engine = [p for p in psutil.Process().children(recursive=True) if p.name().startswith("VLLM")]
    assert engine
    threads = [thread.id for process in engine for thread in process.threads()]
    for thread in threads:
        os.setpriority(os.PRIO_PROCESS, thread, 15)
    yield
    for thread in threads:
        with suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, thread, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser(engine_yields: None) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser, network: TcpProxy) -> AsyncIterator[Page]:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"http://{network.target}/#completion")
    await page.locator("#settings-toggle").click()
    await page.locator("#max-tokens").fill(str(LENGTH))
    await page.locator("#other").fill('{"ignore_eos": true}')
    yield page
    await context.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def uncut(real: RealService) -> str:
    """What the client library reads of the same request."""
    stream = real.client.generate(QUESTION, max_tokens=LENGTH, temperature=0, ignore_eos=True)
    return "".join([text async for text in stream.text()])


async def ask(page: Page) -> None:
    """Ask, and wait for the answer to be on its way."""
    await page.locator("#prompt").fill(QUESTION)
    await page.evaluate(WATCH)
    await page.locator("#send").click()
    async with asyncio.timeout(20):
        await page.evaluate("() => window.isStreaming")


async def whole(page: Page, uncut: str, notes: int) -> None:
    """Wait for the end; the text is complete, and what is said of connections is true."""
    await expect(page.locator("#send")).to_be_visible(timeout=45_000)
    await expect(page.locator("#status")).to_contain_text("Complete")
    assert await page.locator(ANSWER).text_content() == uncut
    assert await page.locator(".notes li").count() == notes
    for note in await page.locator(".notes li").all_inner_texts():
        assert "no text was lost" in note


async def lost(page: Page) -> None:
    await expect(page.locator(".turn")).to_have_attribute("data-state", "lost")


async def test_an_answer_streams(page: Page, uncut: str) -> None:
    await ask(page)
    lengths = []
    for _ in range(3):
        text = await page.locator(ANSWER).text_content() or ""
        lengths.append(len(text))
        await expect(page.locator(ANSWER)).not_to_have_text(text)
    assert 0 < lengths[0] < lengths[1] < lengths[2] < len(uncut)
    await whole(page, uncut, notes=0)


async def test_stop_ends_the_request_in_the_engine_within_a_second(
    page: Page, real: RealService
) -> None:
    await ask(page)
    assert (await real.service.engine.census()).running == 1
    await page.locator("#stop").click()
    assert await real.until_engine_idle(within_s=1) == NOTHING
    await expect(page.locator("#status")).to_have_text("Stopped.")


async def test_a_closed_tab_ends_the_request_in_the_engine_within_a_second(
    page: Page, real: RealService
) -> None:
    await ask(page)
    assert (await real.service.engine.census()).running == 1
    await page.close()
    assert await real.until_engine_idle(within_s=1) == NOTHING


async def test_a_killed_bridge_that_is_started_again_is_survived(
    page: Page, bridge: BridgeProcess, uncut: str
) -> None:
    await ask(page)
    bridge.end(signal.SIGKILL)
    await lost(page)
    await bridge.start()
    await whole(page, uncut, notes=1)


async def test_a_network_that_breaks_and_refuses_for_3_s_is_survived(
    page: Page, network: TcpProxy, uncut: str
) -> None:
    await ask(page)
    network.refusing = True
    network.cut()
    await lost(page)
    await asyncio.sleep(CUT_S)
    network.refusing = False
    await whole(page, uncut, notes=1)


async def test_a_network_that_is_silent_for_3_s_is_survived(
    page: Page, network: TcpProxy, uncut: str
) -> None:
    await ask(page)
    network.hold()
    await asyncio.sleep(0.2)  # what had passed already is drawn
    text = await page.locator(ANSWER).text_content() or ""
    assert 0 < len(text) < len(uncut)
    await asyncio.sleep(CUT_S)
    assert await page.locator(ANSWER).text_content() == text
    network.release()
    await whole(page, uncut, notes=0)


async def test_a_device_that_is_offline_for_3_s_is_survived(
    page: Page, network: TcpProxy, uncut: str
) -> None:
    await ask(page)
    # Chromium's emulation refuses new requests, but leaves streams alone that are open.
    await page.context.set_offline(True)
    network.cut()
    await lost(page)
    await asyncio.sleep(CUT_S)
    await page.context.set_offline(False)
    await whole(page, uncut, notes=1)


async def test_nothing_is_left_in_the_engine(real: RealService) -> None:
    assert await real.until_engine_idle(within_s=1) == NOTHING
