"""Connections are lost; answers are not. The network and the bridge fail for real."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from gateway_sse.config import GatewaySettings
from tests.clients.tcp_proxy import TcpProxy, tcp_proxy
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.page.conftest import OpenPage
from tests.gateway_sse.page.test_page import ANSWER, STREAM, ask, ended
from tests.service.running import RunningService

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

TEXT = "One after another they arrive, and none is lost on its way. " * 4
RESUMED = re.compile(r"^The connection was lost for [\d.]+ m?s\. .* no text was lost\.$")


@pytest_asyncio.fixture(loop_scope="session")
async def network(bridge: Gateway) -> AsyncIterator[TcpProxy]:
    async with tcp_proxy(f"127.0.0.1:{bridge.port}") as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page: OpenPage, network: TcpProxy) -> Page:
    """The page, in the midst of an answer."""
    page = await open_page(url=f"http://{network.target}")
    await begin(page)
    return page


async def begin(page: Page) -> None:
    await ask(page, TEXT)
    await expect(page.locator(ANSWER)).to_contain_text("One after")


async def resumed(page: Page, times: int = 1) -> None:
    """It came to its end, whole, and said that it was cut off."""
    await expect(page.locator("#send")).to_be_visible(timeout=15_000)
    assert await page.locator(ANSWER).text_content() == TEXT
    notes = page.locator(".turn:last-child .notes li")
    await expect(notes).to_have_count(times)
    for note in await notes.all_inner_texts():
        assert RESUMED.match(note)
    await expect(page.locator(".problem")).to_be_hidden()


async def test_an_uncut_answer_says_nothing_of_connections(page: Page) -> None:
    await resumed(page, times=0)


async def test_a_broken_connection_is_resumed_and_said(page: Page, network: TcpProxy) -> None:
    network.cut()
    await expect(page.locator("#status")).to_contain_text("It is back, and nothing was lost.")
    await resumed(page)


async def test_a_network_that_stays_away_for_a_while_is_waited_for(
    page: Page, network: TcpProxy
) -> None:
    network.refusing = True
    network.cut()
    await expect(page.locator("#status")).to_have_text("The connection was lost. Coming back…")
    await expect(page.locator(".turn")).to_have_attribute("data-state", "lost")
    await asyncio.sleep(1)  # some attempts fail
    network.refusing = False
    await resumed(page)


async def test_a_silence_that_ends_loses_nothing(page: Page, network: TcpProxy) -> None:
    network.hold()
    await asyncio.sleep(1)
    network.release()
    await resumed(page, times=0)


async def test_a_connection_that_died_silently_is_replaced_when_the_network_is_back(
    open_page: OpenPage, network: TcpProxy
) -> None:
    page = await open_page(url=f"http://{network.target}")
    network.cut()  # connections that rest; a browser closes them itself when networks change
    await begin(page)
    network.strand()
    await asyncio.sleep(1.1)
    await page.evaluate("dispatchEvent(new Event('online'))")
    await resumed(page)


async def test_a_device_that_goes_offline_comes_back_at_once(page: Page, network: TcpProxy) -> None:
    # Chromium's emulation refuses new requests, but leaves streams alone that are open.
    await page.context.set_offline(True)
    network.cut()
    await expect(page.locator("#status")).to_have_text("The connection was lost. Coming back…")
    await asyncio.sleep(1)
    await page.context.set_offline(False)
    await resumed(page)


async def test_cut_again_and_again(page: Page, network: TcpProxy) -> None:
    for times in range(1, 4):
        network.cut()
        await expect(page.locator(".notes li")).to_have_count(times)
    await resumed(page, times=3)


async def test_a_bridge_that_stops_and_is_replaced_hands_its_readers_on(
    open_page: OpenPage, echo: RunningService, bridge: Gateway
) -> None:
    settings = GatewaySettings(upstream=echo.target, listen="127.0.0.1:0", drain_grace_s=0)
    old = Gateway(settings)
    async with tcp_proxy(f"127.0.0.1:{old.port}") as network:
        page = await open_page(url=f"http://{network.target}")
        await begin(page)
        network.redirect(f"127.0.0.1:{bridge.port}")
        old.stop.set()
        await old.serving
        await resumed(page)


async def test_stopping_while_the_connection_is_lost_stops_when_it_can(
    page: Page, network: TcpProxy
) -> None:
    network.refusing = True
    network.cut()
    await expect(page.locator("#status")).to_have_text("The connection was lost. Coming back…")
    await page.keyboard.press("Escape")
    await ended(page)
    await expect(page.locator("#status")).to_have_text("Stopped.")


async def test_a_stream_that_is_gone_is_said_and_can_be_asked_again(
    page: Page, network: TcpProxy
) -> None:
    error = {"code": "NOT_FOUND", "message": "there is no such stream"}
    await page.route(STREAM, lambda route: route.fulfill(status=404, json={"error": error}))
    network.cut()
    await expect(page.locator(".problem")).to_contain_text("There is no such stream.")
    await page.unroute(STREAM)
    await page.locator(".problem button").click()
    await resumed(page, times=0)
