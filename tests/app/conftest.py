"""Fixtures of the tests in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.app.browser import ARGUMENTS, CHROMIUM, Tab


@pytest.fixture(scope="session")
def browser():
    """Chromium; the test is skipped where it or playwright is not installed."""
    if not CHROMIUM:
        pytest.skip("there is no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    pytest.importorskip("gradio")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser, address) -> Iterator[Callable[..., Tab]]:
    """Opens tabs of the page at `address`; at the end no other host was asked by any of them."""
    opened: list[Tab] = []

    def open_one(name: str, **options) -> Tab:
        opened.append(Tab(browser, address, name, **options))
        return opened[-1]

    yield open_one
    for tab in opened:
        tab.context.close()
    for tab in opened:
        assert tab.hosts == {urlsplit(address).netloc}
        assert tab.errors == []
