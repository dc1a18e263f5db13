"""A real browser for the tests of the page: Debian's chromium, driven by Playwright."""

import contextlib
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60_000
"""Milliseconds that an expectation may take to come true, on a busy machine."""

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: sudo apt-get install chromium")


REFUSED = "Failed to load resource"
"""How Chromium tells of an answer that is none."""


def expect(locator):
    """Playwright's expectation, which waits until it comes true."""
    from playwright.sync_api import expect

    return expect(locator)


def eventually(page, is_so):
    """Waits until it is so, while the page goes on."""
    for _ in range(PATIENCE // 50):
        if is_so():
            return
        page.wait_for_timeout(50)
    assert is_so()


@contextlib.contextmanager
def started():
    """The browser. While it runs, this thread has an event loop: asyncio.run() does not work in it."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here: make .venv/ready-dev")
    with playwright.sync_playwright() as driver:
        playwright.expect.set_options(timeout=PATIENCE)
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


_HURRY = "{ const later = setTimeout; window.setTimeout = (work, ms) => later(work, ms === 1000 ? 100 : ms); }"


class Window:
    """One page in a context of its own, and whatever went wrong in it.

    `hurried`: the page asks for its numbers ten times a second, and no test waits for the next second.
    """

    def __init__(self, browser, url, *, width=1280, height=900, hurried=False, **options):
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        if hurried:
            self.page.add_init_script(_HURRY)
        self.url = url
        self.errors = []
        self.hosts = set()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._asked)
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(url)

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def _asked(self, dialog):
        self.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def forgive(self, words):
        """Errors with these words are what this test is about."""
        self.errors = [error for error in self.errors if words not in error]
