"""Take pictures of the page while it streams, in light and dark; `make serve` must be running."""

import re
import sys
from pathlib import Path
from shutil import which

from playwright.sync_api import expect, sync_playwright

QUESTION = "Explain the life of a request step by step."


def main(url: str, folder: Path) -> None:
    """Write page-light.png and page-dark.png."""
    chromium = which("chromium") or which("chromium-browser") or which("google-chrome")
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(
                color_scheme=scheme, viewport={"width": 1000, "height": 760}, device_scale_factor=1
            )
            page.goto(url)
            page.locator("#prompt").fill(QUESTION)
            page.locator("#send").click()
            expect(page.locator("#answer")).to_have_text(
                re.compile(r".{500}", re.S), timeout=15_000
            )
            page.screenshot(path=folder / f"page-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main(*(sys.argv[1:2] or ["http://127.0.0.1:8080/"]), Path(*(sys.argv[2:3] or ["docs/images"])))
