"""What can be checked of accessibility without a person: names, roles, contrast, motion."""

from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.async_api import Page, expect

from tests.gateway_sse.page.conftest import OpenPage
from tests.gateway_sse.page.test_page import ANSWER, LONG, STREAM, ask, ended

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

AUDIT = Path(__file__).with_name("audit.js").read_text().strip().removesuffix(";")


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("light", 1000), ("dark", 390)])
async def test_all_states_can_be_read_and_operated(
    open_page: OpenPage, scheme: str, width: int
) -> None:
    page = await open_page(color_scheme=scheme, viewport={"width": width, "height": 780})
    await expect(page.locator("#model")).to_have_text("scripted")
    assert await page.evaluate(AUDIT) == [], "at the beginning"

    await page.locator("#settings-toggle").click()
    await page.locator("#max-tokens").fill("0")
    await ask(page, "Hello")
    await expect(page.locator("#max-tokens-error")).to_be_visible()
    assert await page.evaluate(AUDIT) == [], "with a field that is wrong"
    await page.locator("#max-tokens").fill("400")
    await page.locator("#settings-toggle").click()

    await ask(page, LONG)
    await expect(page.locator(ANSWER)).to_contain_text("One after")
    assert await page.evaluate(AUDIT) == [], "while it streams"
    await ended(page)

    error: dict[str, Any] = {"message": "the queue is full", "retry_after_s": 0.1}
    await page.route(STREAM, lambda route: route.fulfill(status=503, json={"error": error}))
    await ask(page, LONG)
    await expect(page.locator(".turn:last-child .problem button")).to_be_enabled()
    assert await page.evaluate(AUDIT) == [], "after a failure"


@pytest.mark.parametrize(("wanted", "moving"), [("reduce", 0), ("no-preference", 1)])
async def test_who_wants_no_motion_gets_none(
    open_page: OpenPage, wanted: Literal["reduce", "no-preference"], moving: int
) -> None:
    page = await open_page(reduced_motion=wanted)
    await page.route(STREAM, lambda _: None)  # it is waited for
    await ask(page, "Hello")
    await expect(page.locator(".turn")).to_have_attribute("data-state", "waiting")
    assert await page.evaluate("document.getAnimations().length") == moving


async def test_screen_readers_find_named_parts(page: Page) -> None:
    await ask(page, "Hello")
    await ended(page)
    for role, name in {
        "list": "Completions",
        "form": "Request",
        "textbox": "Your text",
        "radio": "Buffered",
        "button": "Switch between light and dark",
    }.items():
        await expect(page.get_by_role(role, name=name)).to_be_visible()  # type: ignore[arg-type]
    names = await page.get_by_role("term").all_inner_texts()
    assert [name for name in names if "visible" in name] == ["First visible", "Last visible"]
