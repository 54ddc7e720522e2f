"""What a person does with the page, and what comes of it."""

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page, Request, Route, expect

from tests.gateway_sse.conftest import Gateway
from tests.gateway_sse.page.conftest import OpenPage
from tests.service.running import RunningService

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

LONG = "One after another they arrive, and none is lost on its way. " * 4
ANSWER = ".turn:last-child .answer-text"
STREAM = "**/v1/completions/stream*"


async def ask(page: Page, text: str) -> None:
    await page.locator("#prompt").fill(text)
    await page.locator("#send").click()


async def ended(page: Page) -> None:
    await expect(page.locator("#send")).to_be_visible()


async def figure(page: Page, name: str) -> str:
    return await page.locator(f".turn:last-child [data-figure={name}]").inner_text()


def milliseconds(shown: str) -> float:
    number, unit = shown.split()
    return float(number) * {"ms": 1, "s": 1000}[unit]


def sent_to(sent: list[Request], path: str) -> Callable[[Request], None]:
    """Return what keeps the requests to a path."""

    def keep(request: Request) -> None:
        if request.url.endswith(path):
            sent.append(request)

    return keep


def body_of(request: Request) -> Any:
    return json.loads(request.post_data or "")


async def until_idle(service: RunningService, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while (await service.engine.census()).running:
            await asyncio.sleep(0.01)


async def test_an_answer_appears_while_it_comes_and_then_has_its_figures(page: Page) -> None:
    await ask(page, LONG)
    await expect(page.locator(ANSWER)).to_contain_text("One after")
    await expect(page.locator("#stop")).to_be_visible()
    assert len(await page.locator(ANSWER).inner_text()) < len(LONG)
    await ended(page)

    assert await page.locator(ANSWER).text_content() == LONG
    assert await page.locator(".turn").get_attribute("data-state") == "done"
    first, visible = [milliseconds(await figure(page, n)) for n in ("first-token", "first-visible")]
    assert 0 < first <= visible < milliseconds(await figure(page, "last-visible"))
    assert 20 < milliseconds(await figure(page, "longest-gap")) < 1000
    assert 50 < float((await figure(page, "rate")).removesuffix("/s")) < 1 / 0.005
    assert int(await figure(page, "tokens")) == len(LONG) + 1, "the end of text is one, too"


async def test_text_of_all_kinds_arrives_unchanged(page: Page) -> None:
    text = "a  b\n\tdata: c\n\n<b>&amp;</b>\u2028é, 你好 🙂 e\u0301"
    await ask(page, text)
    await ended(page)
    assert await page.locator(ANSWER).text_content() == text


async def test_whatever_comes_between_two_frames_is_drawn_at_once(page: Page) -> None:
    await page.evaluate("""() => {
        window.held = [];
        window.requestAnimationFrame = (draw) => held.push(draw);
    }""")
    await page.locator("#settings-toggle").click()
    await page.locator("#max-delay").fill("0")
    await ask(page, LONG)
    await expect(page.locator("#status")).to_have_text("Streaming…")
    await asyncio.sleep(0.2)
    assert await page.locator(ANSWER).text_content() == ""

    assert await page.evaluate("held.length") == 1
    await page.evaluate("held.pop()()")
    assert len(await page.locator(ANSWER).text_content() or "") > 10
    await page.keyboard.press("Escape")


async def test_buffered_shows_nothing_before_all_is_there(page: Page) -> None:
    await page.locator("label", has_text="Buffered").click()
    await page.evaluate("""() => {
        window.seen = new Set();
        new MutationObserver(() => seen.add(document.querySelector('.answer-text').textContent))
            .observe(document.querySelector('#completion-turns'),
                     {subtree: true, childList: true, characterData: true});
    }""")
    await ask(page, LONG)
    await expect(page.locator("#status")).to_have_text("Streaming…")
    await ended(page)

    assert set(await page.evaluate("[...seen]")) == {"", LONG}
    visible = milliseconds(await figure(page, "first-visible"))
    assert visible == milliseconds(await figure(page, "last-visible"))
    assert visible > milliseconds(await figure(page, "first-token")) + 500


@pytest.mark.parametrize("way", ["button", "escape"])
async def test_stopping_ends_the_request_and_keeps_the_text(
    page: Page, echo: RunningService, way: str
) -> None:
    await ask(page, LONG * 2)
    await expect(page.locator(ANSWER)).to_contain_text("One after")
    if way == "button":
        await page.locator("#stop").click()
    else:
        await page.keyboard.press("Escape")

    await until_idle(echo, 1)
    await ended(page)
    await expect(page.locator("#status")).to_have_text("Stopped.")
    text = await page.locator(ANSWER).text_content()
    assert text
    assert LONG.startswith(text)
    assert text != LONG


async def test_a_closed_tab_ends_its_request_within_a_second(
    page: Page, echo: RunningService
) -> None:
    await ask(page, LONG * 2)
    await expect(page.locator(ANSWER)).to_contain_text("One after")
    assert (await echo.engine.census()).running == 1
    await page.close()
    await until_idle(echo, 1)


async def test_leaving_for_another_page_ends_the_request_within_a_second(
    page: Page, echo: RunningService
) -> None:
    await ask(page, LONG * 2)
    await expect(page.locator(ANSWER)).to_contain_text("One after")
    await page.goto("about:blank")
    await until_idle(echo, 1)


async def test_each_wrong_field_is_told_at_its_field_and_the_first_has_the_focus(
    page: Page,
) -> None:
    await page.locator("#settings-toggle").click()
    await page.locator("#max-tokens").fill("0")
    await page.locator("#temperature").fill("9")
    await page.locator("#settings-toggle").click()
    await ask(page, "Hello")

    for field in ("max-tokens", "temperature"):
        error = page.locator(f"#{field}-error")
        await expect(error).to_be_visible()
        assert await page.locator(f"#{field}").get_attribute("aria-invalid") == "true"
        assert f"{field}-error" in (
            await page.locator(f"#{field}").get_attribute("aria-describedby") or ""
        )
    await expect(page.locator("#max-tokens")).to_be_focused()
    assert await page.locator("#prompt").input_value() == "Hello", "what was asked is not lost"
    assert await page.locator(".turn").count() == 0

    await page.locator("#max-tokens").fill("5")
    await expect(page.locator("#max-tokens-error")).to_be_hidden()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("{", "Other fields must be JSON"),
        ("[1]", "Other fields must be JSON"),
        ("null", "Other fields must be JSON"),
        ('{"stop": "a", "seed": [1]}', "The field “seed” must be an integer."),
        ('{"stop_token_ids": [9999]}', "The field “stop_token_ids” is wrong: 9999 is not in the"),
        ('{"top_k": "many"}', "The field “top_k” must be an integer."),
        ('{"stop": ["a", 1]}', "The field “stop[1]” must be text."),
        ('{"tempratur": 1}', "The field “tempratur” is unknown; did you mean temperature?"),
    ],
)
async def test_other_fields_are_sent_and_refused_by_name(page: Page, other: str, said: str) -> None:
    await page.locator("#settings-toggle").click()
    await page.locator("#other").fill(other)
    await ask(page, "Hello")
    await expect(page.locator("#other-error")).to_contain_text(said)


async def test_a_busy_service_is_counted_down_and_asked_again(page: Page) -> None:
    async def busy(route: Route) -> None:
        error = {"code": "RESOURCE_EXHAUSTED", "message": "the queue is full", "retry_after_s": 1.4}
        await route.fulfill(status=429, json={"error": error})

    await page.route(STREAM, busy, times=1)
    await ask(page, "Hello")
    again = page.locator(".problem button")
    await expect(page.locator(".problem")).to_contain_text("The queue is full.")
    await expect(again).to_have_text("Try again in 2 s")
    await expect(again).to_be_disabled()
    await expect(again).to_have_text("Try again in 1 s")
    await expect(again).to_be_enabled()
    await again.click()

    await ended(page)
    assert await page.locator(ANSWER).text_content() == "Hello"
    assert await page.locator(".turn").count() == 1


async def test_a_gateway_that_cannot_be_reached_is_said_and_can_be_asked_again(page: Page) -> None:
    await page.route(STREAM, lambda route: route.abort(), times=1)
    await ask(page, "Hello")
    await expect(page.locator(".problem")).to_contain_text("cannot be reached")
    await page.locator(".problem button").click()
    await ended(page)
    assert await page.locator(ANSWER).text_content() == "Hello"


async def test_a_key_goes_with_the_request_and_stays_in_the_tab(page: Page) -> None:
    sent: list[Request] = []
    page.on("request", sent_to(sent, "/v1/completions/stream"))
    await page.locator("#settings-toggle").click()
    await page.locator("#api-key").fill("ts_secret")
    await ask(page, "Hello")
    await ended(page)
    assert sent[-1].headers["authorization"] == "Bearer ts_secret"
    kept = await page.evaluate("[JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert "ts_secret" not in kept[0]
    assert "ts_secret" in kept[1]


async def test_a_refused_key_is_told_at_its_field(page: Page) -> None:
    error = {"code": "UNAUTHENTICATED", "message": "this API key is not known"}
    await page.route(STREAM, lambda route: route.fulfill(status=401, json={"error": error}))
    await ask(page, "Hello")
    await expect(page.locator("#api-key-error")).to_contain_text("This API key is not known.")
    await expect(page.locator("#api-key")).to_be_focused()


async def test_a_chat_sends_what_was_said_before_and_shows_who_speaks(open_page: OpenPage) -> None:
    page = await open_page("/")
    sent: list[Request] = []
    page.on("request", sent_to(sent, "/v1/completions/stream"))
    await ask(page, "First?")
    await ended(page)
    await ask(page, "Second?")
    await ended(page)

    assert body_of(sent[1])["messages"] == [
        {"role": "user", "content": "First?"},
        {"role": "assistant", "content": "First?"},
        {"role": "user", "content": "Second?"},
    ]
    turns = page.locator("#chat-turns")
    assert await turns.locator(".asker").all_inner_texts() == ["You", "You"]
    assert await turns.locator(".question").all_inner_texts() == ["First?", "Second?"]
    assert await turns.locator(".who").all_inner_texts() == ["scripted", "scripted"]
    assert await turns.locator(".answer-text").all_inner_texts() == ["First?", "Second?"]
    await page.locator("#clear").click()
    await ask(page, "Anew?")
    await ended(page)
    assert body_of(sent[2])["messages"] == [{"role": "user", "content": "Anew?"}]


async def test_the_modes_keep_their_own_texts(page: Page) -> None:
    await ask(page, "A text")
    await ended(page)
    await page.locator("label", has_text="Chat").click()
    await expect(page.locator("#welcome")).to_be_visible()
    await expect(page.locator(".turn")).to_be_hidden()
    await page.locator("label", has_text="Completion").click()
    await expect(page.locator(".turn")).to_be_visible()


async def test_another_mode_says_nothing_of_the_one_before(page: Page) -> None:
    await ask(page, LONG)
    await page.keyboard.press("Escape")
    await expect(page.locator("#status")).to_have_text("Stopped.")
    await page.locator("label", has_text="Chat").click()
    await expect(page.locator("#status")).to_have_text("Ready.")


@pytest.mark.parametrize("shape", ["data", "models", None])
async def test_the_models_name_is_shown_in_whichever_form_it_comes(
    open_page: OpenPage, shape: str | None
) -> None:
    page = await open_page("/healthz")
    body: dict[str, Any] = {shape: [{"id": "a-model"}]} if shape else {"error": {}}
    await page.route(
        "**/v1/models", lambda route: route.fulfill(status=200 if shape else 404, json=body)
    )
    await page.goto(page.url.replace("/healthz", "/"))
    await expect(page.locator("#model")).to_have_text("a-model" if shape else "ready")


async def test_timings_are_shared_only_when_that_was_chosen_and_that_is_remembered(
    page: Page, bridge: Gateway
) -> None:
    sent: list[Request] = []
    page.on("request", sent_to(sent, "/v1/perceived"))
    await ask(page, "Hello")
    await ended(page)
    assert sent == []

    await page.locator("#settings-toggle").click()
    await page.locator("#share").check()
    await page.reload()
    await page.locator("#settings-toggle").click()
    await expect(page.locator("#share")).to_be_checked()
    async with page.expect_response("**/v1/perceived") as answered:
        await ask(page, LONG)
    assert (await answered.value).status == 204
    seen = body_of(sent[0])
    assert 0 < seen["first_token_ms"] < seen["last_token_ms"]
    assert 20 < seen["longest_gap_ms"] < seen["last_token_ms"]


async def test_an_answer_is_read_out_once_and_its_tokens_are_not(page: Page) -> None:
    await page.evaluate("""() => {
        window.said = [];
        for (const live of document.querySelectorAll('[role=status], [aria-live]'))
            new MutationObserver(() => said.push(live.textContent))
                .observe(live, {childList: true, characterData: true, subtree: true});
    }""")
    await ask(page, LONG)
    await ended(page)
    said = await page.evaluate("said")
    assert said == ["Waiting for the first token…", "Streaming…", "Complete.", LONG]
    inside = await page.locator("[aria-live] .answer-text, [role=log] .answer-text").count()
    assert inside == 0, "the answer is in no live region itself"


async def test_all_can_be_done_with_the_keyboard(page: Page) -> None:
    focused = "document.activeElement.id"
    assert await page.evaluate(focused) == "prompt"
    await page.keyboard.type("Hello")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("there")
    await page.keyboard.press("Enter")
    await ended(page)
    assert await page.locator(ANSWER).text_content() == "Hello\nthere"
    assert await page.evaluate(focused) == "prompt", "one can go on typing"

    order = []
    for _ in range(3):
        await page.keyboard.press("Tab")
        order.append(await page.evaluate(focused))
        ring = await page.evaluate("""() => {
            const shown = document.activeElement.matches('[type=radio]')
                ? document.activeElement.nextElementSibling : document.activeElement;
            return getComputedStyle(shown).outlineStyle;
        }""")
        assert ring == "solid", f"{order[-1]} does not show that it has the focus"
    assert order == ["streamed", "settings-toggle", "send"]
    await page.locator("#send").focus()
    await page.locator("#prompt").evaluate(f"input => input.value = {json.dumps(LONG)}")
    await page.keyboard.press("Enter")
    await expect(page.locator("#stop")).to_be_focused()
    await page.keyboard.press("Enter")
    await ended(page)
    await expect(page.locator("#send")).to_be_focused()
    await expect(page.locator("#status")).to_have_text("Stopped.")


async def test_the_chosen_theme_is_kept(page: Page) -> None:
    def paper() -> str:
        return "getComputedStyle(document.documentElement).backgroundColor"

    light = await page.evaluate(paper())
    await page.locator("#theme").click()
    dark = await page.evaluate(paper())
    assert dark != light
    await page.reload()
    assert await page.evaluate(paper()) == dark


async def test_what_is_asked_of_the_page_comes_from_here(page: Page, bridge: Gateway) -> None:
    await ask(page, "Hello")
    await ended(page)
    urls = await page.evaluate("performance.getEntriesByType('resource').map((e) => e.name)")
    assert urls
    assert all(re.match(re.escape(bridge.url), url) for url in urls)
