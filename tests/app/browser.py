"""Chromium, and a tab of the page in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "output/app"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
TABS = ("Segment", "Refer", "Group", "Click", "Example", "Compare")
WAIT = 120_000  # milliseconds


@contextmanager
def page_of(*command: str, cwd: Path) -> Iterator[str]:
    """Run a program that serves the page, and yield its address; at the end it gets SIGTERM.

    Args:
        command: arguments of Python.
        cwd: its working directory.
    """
    paths = [str(ROOT), *map(str, ROOT.glob("projects/*/")), os.environ.get("PYTHONPATH", "")]
    # Uploads and results are below this folder, and nothing of them is left at the end.
    temporary = cwd / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(temporary),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        yield line.split()[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        errors = process.stderr.read()
        assert not errors, errors
        assert list(temporary.glob("hipie-app-*")) == []
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


class Tab:
    """A page with a tab that was opened, and what it asks of hosts.

    Attributes:
        page: playwright's page.
        hosts: that were asked.
        errors: uncaught exceptions of scripts, and what the console reports as errors.
    """

    def __init__(
        self, browser, address: str, name: str, width: int = 1280, **options: object
    ) -> None:
        viewport = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.hosts: set[str] = set()
        self.errors: list[str] = []
        self.page.on("request", self._count)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector("#segment-run")
        self.show(name)

    def _count(self, request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob"):
            self.hosts.add(parts.netloc)

    def show(self, name: str) -> None:
        """Open a tab; at small widths some are in a menu."""
        self.name = name.lower()
        tab = self.page.get_by_role("tab", name=name, exact=True)
        if not tab.is_visible():
            self.page.locator(".overflow-menu > button").click()
            tab = self.page.locator(".overflow-dropdown").get_by_text(name, exact=True)
        tab.click()
        shown = "kind" if name == "Click" else "run"
        self.page.locator(f"#{self.name}-{shown}").wait_for(state="visible")

    def upload(self, element: str, *files: str | Path) -> None:
        """Choose files in a component of the tab, and wait until they are shown."""
        selector = f"#{self.name}-{element}"
        self.choose(element, *files)
        name = re.compile(re.escape(Path(files[-1]).stem))
        shown = self.page.locator(f"{selector} img, {selector} canvas").or_(
            self.page.locator(selector).get_by_text(name)
        )
        shown.first.wait_for(state="visible")

    def edit(self, file: str | Path) -> None:
        """Choose the image of the tab Example's editor, and wait until it can be painted."""
        self.page.locator("#example-editor canvas").first.wait_for(state="visible")
        self.choose("editor", file)
        self.page.locator("#example-editor").get_by_text("Upload an image").wait_for(state="hidden")
        # The server gets the image some time after it is shown.
        for _ in range(60):
            time.sleep(0.5)
            if self.run("^(choose|paint)").startswith("paint"):
                return
        raise AssertionError("the server has no image of the editor")

    def choose(self, element: str, *files: str | Path) -> None:
        """Choose files in a component of the tab."""
        field = self.page.locator(f"#{self.name}-{element} input[type=file]").first
        field.set_input_files([str(file) for file in files])

    def chip(self, kind: str, *names: str) -> None:
        """Type names into a list of chips."""
        field = self.page.locator(f"#{self.name}-{kind} input").first
        for name in names:
            field.fill(name)
            field.press("Enter")
        field.press("Escape")

    def run(self, done: str = "") -> str:
        """Press the button, and return the last message."""
        self.page.click(f"#{self.name}-run")
        return self.message(done)

    def message(self, done: str) -> str:
        """Wait for a message that contains a pattern, and return it."""
        status = self.page.locator(f"#{self.name}-status p", has_text=re.compile(done))
        status.wait_for()
        return status.inner_text()

    def role(self) -> str:
        """Role of the message for screen readers."""
        return self.page.locator(f"#{self.name}-status p").get_attribute("role")

    def pick(self, element: str, value: str) -> None:
        """Choose an entry of a list."""
        self.page.locator(f"#{self.name}-{element} input").first.click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def download(self, element: str) -> Path:
        """Press a download button, and return the file."""
        with self.page.expect_download() as download:
            self.page.click(f"#{self.name}-{element}")
        return Path(download.value.path())

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    def screenshot(self, name: str) -> None:
        """Save the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(
            path=SCREENSHOTS / f"{name}.png", full_page=True, animations="disabled"
        )
