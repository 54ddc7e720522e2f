"""The examples for browsers, as their readers run them."""

import asyncio
import mimetypes
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route, expect

from gateway_sse.config import GatewaySettings
from tests.clients.tcp_proxy import tcp_proxy
from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.page.conftest import OpenPage
from tests.gateway_sse.page.node import CLIENTS, ROOT
from tests.gateway_sse.page.test_page import until_idle
from tests.service.running import RunningService

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

EXAMPLES = ROOT / "clients/browser/examples"
TEXT = "One after another they arrive, and none is lost on its way." * 3


async def open_example(open_page: OpenPage, name: str, url: str) -> Page:
    """Open it as if the bridge's own origin had it."""
    page = await open_page("/healthz", url=url)

    async def file(route: Route) -> None:
        path = route.request.url.partition("/examples/")[2].partition("?")[0]
        folder = CLIENTS if path.startswith("node_modules/") else EXAMPLES
        kind = mimetypes.guess_type(path.replace(".mjs", ".js"))[0]
        await route.fulfill(body=(folder / path).read_bytes(), content_type=kind)

    await page.route("**/examples/**", file)
    await page.goto(f"{url}/examples/{name}?prompt={TEXT}")
    await expect(page.locator("#answer")).to_contain_text("One after")
    return page


async def test_a_program_for_node_prints_the_answer(bridge: Gateway, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    async with tcp_proxy(f"127.0.0.1:{bridge.port}") as network:
        process = await asyncio.create_subprocess_exec(
            *("node", "node.mjs", TEXT, f"http://{network.target}"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        begun = await process.stdout.read(1)
        network.cut()
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert (begun + out).decode() == TEXT + "\n"


@pytest.mark.parametrize("name", ["fetch.html", "eventsource.html"])
async def test_a_page_shows_the_answer_whole_over_a_connection_that_breaks(
    open_page: OpenPage, bridge: Gateway, name: str
) -> None:
    async with tcp_proxy(f"127.0.0.1:{bridge.port}") as network:
        page = await open_example(open_page, name, f"http://{network.target}")
        network.cut()
        answer = page.locator("#answer")
        await page.wait_for_function(
            f"document.querySelector('#answer').textContent.length >= {len(TEXT)}"
        )
        await asyncio.sleep(0.5)  # nothing comes twice
        assert await answer.text_content() == TEXT


@pytest.mark.parametrize("name", ["fetch.html", "eventsource.html"])
async def test_leaving_it_ends_the_answer_within_a_second(
    open_page: OpenPage, bridge: Gateway, echo: RunningService, name: str
) -> None:
    page = await open_example(open_page, name, bridge.url)
    assert (await echo.engine.census()).running == 1
    await page.close()
    await until_idle(echo, 1)


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere(tmp_path: Path) -> AsyncIterator[str]:
    """An origin that has the examples, served as they say."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdout is not None
    said = await asyncio.wait_for(server.stdout.readline(), 10)
    yield f"http://127.0.0.1:{said.split(b' port ')[1].split()[0].decode()}"
    server.kill()
    await server.wait()


@pytest_asyncio.fixture(loop_scope="session")
async def letting_in(echo: RunningService, elsewhere: str) -> AsyncIterator[Gateway]:
    """A bridge with `--cors-origins`."""
    upstream, listen = echo.target, "127.0.0.1:0"
    gateway = Gateway(GatewaySettings(upstream=upstream, listen=listen, cors_origins=[elsewhere]))
    yield gateway
    gateway.stop.set()
    await gateway.serving


@pytest.mark.parametrize("name", ["fetch.html", "eventsource.html"])
async def test_a_page_of_an_origin_that_is_let_in_shows_the_answer_whole_and_leaving_ends_it(
    open_page: OpenPage, letting_in: Gateway, echo: RunningService, elsewhere: str, name: str
) -> None:
    async with tcp_proxy(f"127.0.0.1:{letting_in.port}") as network:
        query = urlencode({"gateway": f"http://{network.target}", "prompt": TEXT})
        page = await open_page(f"/{name}?{query}", url=elsewhere)
        answer = page.locator("#answer")
        await expect(answer).to_contain_text("One after")
        network.cut()
        await expect(answer).to_have_text(TEXT)
        await page.reload()
        await expect(answer).to_contain_text("One after")
        assert (await echo.engine.census()).running == 1
        await page.close()
        await until_idle(echo, 1)


async def test_stopping_ends_the_answer_and_is_no_error(
    open_page: OpenPage, bridge: Gateway, echo: RunningService
) -> None:
    page = await open_example(open_page, "fetch.html", bridge.url)
    await page.locator("#stop").click()
    await until_idle(echo, 1)
    text = await page.locator("#answer").text_content()
    assert text
    assert TEXT.startswith(text)
    assert text != TEXT  # and `open_page` sees that no script failed
