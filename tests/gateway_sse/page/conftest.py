"""The page in a real Chromium, over a bridge and a service with the scripted engine.

One browser for all tests, so all of them run in the session's event loop.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from gateway_sse.config import GatewaySettings
from service.engine.scripted import ScriptedEngine
from tests.chromium import ARGUMENTS, chromium
from tests.gateway_sse.conftest import Gateway
from tests.service.running import RunningService, running_service

STEP_S = 0.005

OpenPage = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=list(ARGUMENTS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def echo() -> AsyncIterator[RunningService]:
    """A service that says each prompt back, a byte every STEP_S."""
    async with running_service(ScriptedEngine(step_s=STEP_S)) as service:
        yield service


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def bridge(echo: RunningService) -> AsyncIterator[Gateway]:
    settings = GatewaySettings(upstream=echo.target, listen="127.0.0.1:0", drain_grace_s=1)
    gateway = Gateway(settings)
    yield gateway
    gateway.stop.set()
    await gateway.serving


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, bridge: Gateway) -> AsyncIterator[OpenPage]:
    """Opens the page, in a browser profile of its own; `url` is the bridge's unless given."""
    errors: list[str] = []

    async with AsyncExitStack() as stack:

        async def open_page(path: str = "/#completion", *, url: str = "", **options: Any) -> Page:
            context = await browser.new_context(**options)
            stack.push_async_callback(context.close)
            page = await context.new_page()
            page.set_default_timeout(10_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto((url or bridge.url) + path)
            return page

        yield open_page
    assert errors == [], "a script of the page failed"


@pytest_asyncio.fixture(loop_scope="session")
async def page(open_page: OpenPage) -> Page:
    """The page, for completions."""
    return await open_page()
