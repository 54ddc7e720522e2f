"""Take pictures of the page while it streams; `make serve` must be running.

Light and dark, wide and narrow, each in the midst of the second answer of a chat.
"""

import sys
from pathlib import Path
from shutil import which

from playwright.sync_api import Page, expect, sync_playwright

FIRST = "What is time to first token?"
SECOND = "Explain the life of a request step by step."
# No frame is drawn while the picture is taken, lest it is one of half a scroll.
HOLD = """() => new Promise((held) => {
    window.frames_of_old = window.requestAnimationFrame;
    const look = () => {
        const length = document.querySelector('.turn:last-child .answer-text').textContent.length;
        if (length < 150) return frames_of_old(look);
        window.requestAnimationFrame = () => 1;
        setTimeout(held, 50);
    };
    look();
})"""
WIDE, NARROW = (1000, 800), (390, 780)
PICTURES = {
    "page-light": ("light", WIDE),
    "page-dark": ("dark", WIDE),
    "page-narrow-light": ("light", NARROW),
    "page-narrow-dark": ("dark", NARROW),
}


def main(url: str, folder: Path) -> None:
    """Write the pictures as PNG."""
    chromium = which("chromium") or which("chromium-browser") or which("google-chrome")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        for name, (scheme, (width, height)) in PICTURES.items():
            page = browser.new_page(
                color_scheme=scheme,
                viewport={"width": width, "height": height},
                device_scale_factor=1,
            )
            page.goto(url)
            expect(page.locator("#service")).to_have_attribute("data-state", "ready")
            while not _taken(page, folder / f"{name}.png"):
                page.locator("#clear").click()
            page.close()
        browser.close()


def _taken(page: Page, file: Path) -> bool:
    """Ask, and take a picture; tell whether the answer was still under way then."""
    for number, question in enumerate((FIRST, SECOND), 1):
        expect(page.locator("#send")).to_be_visible(timeout=15_000)
        page.locator("#prompt").fill(question)
        page.locator("#send").click()
        expect(page.locator(".turn")).to_have_count(number)
    page.evaluate(HOLD)
    page.screenshot(path=file)
    under_way = page.locator("#stop").is_visible()
    page.evaluate("() => { window.requestAnimationFrame = frames_of_old; }")
    expect(page.locator("#send")).to_be_visible(timeout=15_000)
    return under_way


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["http://127.0.0.1:8080/"]), Path(*(sys.argv[2:3] or ["docs/images"])))
