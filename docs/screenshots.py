"""Take screenshots of the book: a lesson, the claims, and what the notes got wrong.

    tox -e book && python docs/screenshots.py

Chromium writes them to docs/pictures/, in desktop width and in phone width.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
BOOK, PICTURES = ROOT / "build" / "book", Path(__file__).parent / "pictures"
SIZES = {"desk": (1280, 1240), "phone": (390, 844)}
PAGES = {
    "chapter": "generated/claims/training.step-order.html",
    "claims": "generated/claims.html",
    "corrected": "generated/corrected.html",
}
# Scroll to the mistake, with the law above it in view.
BRING_INTO_VIEW = "d => { d.scrollIntoView(); scrollBy(0, -250) }"


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("screenshots need a browser: apt-get install chromium")
    if not (BOOK / "index.html").is_file():
        sys.exit("build the book first: tox -e book")
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, page in PAGES.items():
            for width in SIZES:
                take(browser, page, width, PICTURES / f"{name}-{width}.png")
        browser.close()


def take(browser: Browser, page: str, width: str, file: Path) -> None:
    """Take a screenshot of a page: light in desktop width, dark in phone width."""
    size = dict(zip(("width", "height"), SIZES[width], strict=True))
    tab = browser.new_page(viewport=size, color_scheme="light" if width == "desk" else "dark")
    path, _, anchor = page.partition("#")
    tab.goto((BOOK / path).as_uri() + (f"#{anchor}" if anchor else ""))
    if anchor:
        tab.wait_for_timeout(2000)  # the page scrolls smoothly to the anchor
        tab.add_style_tag(content="html { scroll-behavior: auto !important }")
        tab.locator(f"[id='{anchor}']").evaluate(BRING_INTO_VIEW)
    tab.screenshot(path=file)
    tab.close()
    print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
