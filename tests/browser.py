"""A real browser without a window: pages are opened in the Chromium that this machine has."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Chromium as root needs the first; the others keep it from calling its maker.
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
)

CHROMIUM = next((found for name in _NAMES if (found := shutil.which(name))), None)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: install it (Debian: apt-get install chromium)"
)


@contextmanager
def open_page(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page of this many pixels; an error in its scripts fails the test when the page is left."""
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height})
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        browser.close()
    assert not errors, errors


def open_report(page: Page, path: Path) -> None:
    """Open a report's page and wait until all of its charts are drawn."""
    page.goto(path.resolve().as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached")
