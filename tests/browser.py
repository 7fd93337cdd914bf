"""A real browser for tests. In: a page's file. Out: clicks, texts, pictures of it; whatever it complained of fails the test.

Drives an installed Chromium or Chrome without a window through Playwright; a test is skipped where there is none. Use:

    with open_browser() as browser, browser.open(path, width=390, dark=True) as page:
        page.click("#next")
        assert page.text("h1") == "Done"
        page.screenshot(tmp_path / "page.png")
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (  # Playwright itself adds --headless, --no-sandbox and a new --user-data-dir
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 20_000  # of one step, on a busy machine
OFFLINE = ("file:", "data:", "blob:", "about:")
WIDTHS = (1280, 390)


class Page(NamedTuple):
    """An open page. Each step waits for what it names, and fails where the page has complained so far."""

    raw: Any  # playwright.sync_api.Page, for what is lacking here
    complaints: list[str]  # errors of the console, exceptions, requests that failed or left the machine

    def click(self, selector: str) -> None:
        self.raw.click(selector)
        self.check()

    def fill(self, selector: str, text: str) -> None:
        self.raw.fill(selector, text)
        self.check()

    def press(self, key: str) -> None:
        """A key by its name, "Enter", "Tab", "3", where the focus is."""
        self.raw.keyboard.press(key)
        self.check()

    def text(self, selector: str) -> str:
        """As it is seen: hidden text is not in it."""
        self.check()
        return str(self.raw.inner_text(selector))

    def wait(self, script: str) -> None:
        """Until the expression of JavaScript is true."""
        self.raw.wait_for_function(f"() => ({script})")  # a function needs no eval, which a page's policy may forbid
        self.check()

    def evaluate(self, script: str) -> Any:
        self.check()
        return self.raw.evaluate(script)

    def reload(self) -> None:
        """What the page stored stays."""
        self.raw.reload()
        self.check()

    def download(self, selector: str, folder: Path) -> Path:
        """Click, and keep the file that the page gives in `folder` under the name that the page gives it."""
        with self.raw.expect_download() as given:
            self.raw.click(selector)
        path = folder / str(given.value.suggested_filename)
        given.value.save_as(path)
        self.check()
        return path

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        """PNG of the page down to its end, or of what the window shows."""
        self.raw.screenshot(path=path, full_page=whole)
        self.check()
        return path

    def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        return int(self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def check(self) -> None:
        assert not self.complaints, "\n".join(self.complaints)


class Browser(NamedTuple):
    raw: Any  # playwright.sync_api.Browser

    @contextmanager
    def open(
        self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False, server: str = ""
    ) -> Iterator[Page]:
        """A file or URL in a window of `width` x `height` px, with a store of its own that is empty. server: the page may ask this
        origin, and no other."""
        context = self.raw.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        try:
            opened = Page(context.new_page(), [])
            _listen(opened, server)
            opened.raw.set_default_timeout(PATIENCE_MS)
            opened.raw.goto(page.absolute().as_uri() if isinstance(page, Path) else page)
            opened.check()
            yield opened
            opened.check()
        finally:
            context.close()


@contextmanager
def open_browser() -> Iterator[Browser]:
    """One process with a fresh profile. Skips the test where there is no browser or no Playwright."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium or Chrome on PATH: the page was not opened in a browser")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install 'musetalk[test]'")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(FLAGS), timeout=3 * PATIENCE_MS)
        try:
            yield Browser(browser)
        finally:
            browser.close()


def _listen(page: Page, server: str) -> None:
    def heard(message: Any) -> None:
        if message.type == "error":
            page.complaints.append(f"console: {message.text}")

    def asked(request: Any) -> None:
        if not request.url.startswith(OFFLINE) and not (server and request.url.startswith(f"{server}/")):
            page.complaints.append(f"asks the network for {request.url}")

    def failed(request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # a film that is no longer wanted: the browser itself stops reading it
            page.complaints.append(f"not loaded: {request.url} ({request.failure})")

    page.raw.on("console", heard)
    page.raw.on("pageerror", lambda error: page.complaints.append(f"exception: {error}"))
    page.raw.on("request", asked)
    page.raw.on("requestfailed", failed)
