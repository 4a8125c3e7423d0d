"""The page in a real browser: tabs, their downloads, and the hosts that the page asks.

Needs Debian's chromium and playwright. Screenshots are written to output/app/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from pycocotools.coco import COCO

from hipie import Segmenter
from hipie.app.context import draw_examples

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "output/app"
CHROMIUM = shutil.which("chromium") or ""
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
MODELS = [
    *("--click-model", "hipie_interactive/sam_random_picturebook.yaml"),
    *("--example-model", "hipie_fewshot/persam_random_picturebook.yaml"),
]
WAIT = 120_000  # milliseconds
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine"),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of `hipie app`."""
    pytest.importorskip("gradio")
    paths = [str(ROOT), *map(str, ROOT.glob("projects/*/")), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "hipie", "app", "--port", "0", "--device", "cpu", *MODELS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
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
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return draw_examples(tmp_path_factory.mktemp("examples"))


class Tab:
    """A page with a tab that was opened, and what it asks of hosts."""

    def __init__(self, browser, address: str, name: str, width: int = 1280, **options) -> None:
        viewport = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.hosts: set[str] = set()
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        self.page.goto(address)
        self.page.wait_for_selector("#segment-run")
        self.name = name.lower()
        self.page.get_by_role("tab", name=name).click()

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def upload(self, element: str, *files: str) -> None:
        """Choose files in a component of the tab."""
        selector = f"#{self.name}-{element}"
        self.page.locator(f"{selector} input[type=file]").first.set_input_files(list(files))
        name = re.compile(re.escape(Path(files[-1]).stem))
        shown = self.page.locator(f"{selector} img, {selector} canvas").or_(
            self.page.locator(selector).get_by_text(name)
        )
        shown.first.wait_for(state="visible")

    def run(self, done: str = "") -> str:
        """Press the button, and return the last message."""
        self.page.click(f"#{self.name}-run")
        return self.message(done)

    def message(self, done: str) -> str:
        """Wait for a message that contains a pattern."""
        status = self.page.locator(f"#{self.name}-status p")
        status.get_by_text(re.compile(done)).or_(
            self.page.locator(f"#{self.name}-status p", has_text=re.compile(done))
        ).first.wait_for()
        return status.inner_text()

    def role(self) -> str:
        """Role of the message for screen readers."""
        return self.page.locator(f"#{self.name}-status p").get_attribute("role")

    def download(self, element: str) -> Path:
        """Press a download button, and return the file."""
        with self.page.expect_download() as download:
            self.page.click(f"#{self.name}-{element}")
        return Path(download.value.path())

    def screenshot(self, name: str) -> None:
        """Save the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(
            path=SCREENSHOTS / f"{name}.png", full_page=True, animations="disabled"
        )


@pytest.fixture
def open_tab(browser, address) -> Iterator[Callable[..., Tab]]:
    opened: list[Tab] = []

    def open_one(name: str, **options) -> Tab:
        opened.append(Tab(browser, address, name, **options))
        return opened[-1]

    yield open_one
    for tab in opened:
        assert tab.hosts == {urlsplit(address).netloc}
        tab.context.close()


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_pretrained("hipie-nano-picturebook", "cpu")


def test_segment_writes_what_the_segmenter_returns(open_tab, examples, segmenter):
    tab = open_tab("Segment")
    tab.page.locator("#segment-examples button").first.click()
    tab.page.locator("#segment-things").get_by_text(examples[0].things[0], exact=True).wait_for()
    assert "segment" in tab.run(r"^\d+ segments?$")
    coco = COCO(tab.download("json"))
    example = examples[0]
    parts = "; ".join(example.parts)
    result = segmenter.segment(
        example.file, "; ".join(example.things), "; ".join(example.stuff), parts
    )
    expected = [
        (segment.label, segment.rle["counts"]) for _, segment in result.walk() if segment.area
    ]
    written = [
        (coco.cats[entry["category_id"]]["name"], entry["segmentation"]["counts"])
        for entry in coco.loadAnns(coco.getAnnIds())
    ]
    assert written == expected
    with Image.open(tab.download("png")) as image:
        assert image.format == "PNG"
    # The legend: one mask alone, by the keyboard.
    source = tab.page.locator("#segment-result img").get_attribute("src")
    tab.page.locator("#segment-legend input").nth(1).focus()
    tab.page.keyboard.press("Space")
    tab.page.wait_for_function(
        "source => document.querySelector('#segment-result img').src !== source", arg=source
    )
    tab.screenshot("segment_1280")


def test_names_are_typed_as_chips(open_tab, examples):
    tab = open_tab("Segment")
    tab.upload("image", examples[1].file)
    field = tab.page.locator("#segment-things input").first
    for name in ("house", "car, automobile"):
        field.click()
        field.press_sequentially(name)
        field.press("Enter")
    field.press("Escape")
    tab.run(r"^\d+ segments?$")
    written = json.loads(tab.download("json").read_text())
    assert written["info"]["things"] == ["house", "car, automobile"]
    assert {entry["name"] for entry in written["categories"]} <= {"house", "car"}
    assert written["annotations"]


def test_refer_has_a_segment_for_every_expression(open_tab, examples):
    tab = open_tab("Refer")
    tab.upload("image", examples[2].file)
    tab.page.fill("#refer-text textarea", "the red fish\nthe car")
    assert tab.run("expressions found$") == "2 of 2 expressions found"
    written = json.loads(tab.download("json").read_text())
    assert [entry["name"] for entry in written["categories"]] == ["the red fish", "the car"]
    assert all(0 < entry["score"] <= 1 for entry in written["annotations"])
    tab.screenshot("refer_1280")


def test_group_says_which_images_show_it(open_tab, examples):
    tab = open_tab("Group")
    files = [example.file for example in examples[:3]]
    tab.upload("images", *files)
    tab.page.fill("#group-text textarea, #group-text input", "fish")
    message = tab.run("images show it$")
    written = json.loads(tab.download("json").read_text())
    shown = [entry["shown"] for entry in written["images"]]
    assert message == f"{sum(shown)} of 3 images show it"
    names = [Path(file).name for file in files]
    assert [entry["image"]["file"] for entry in written["images"]] == names
    assert shown[0] and shown[2]
    tab.screenshot("group_1280")


def test_example_is_painted_and_searched(open_tab, examples):
    tab = open_tab("Example")
    tab.upload("editor", examples[2].file)
    time.sleep(3)
    box = tab.page.locator("#example-editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.move(x - 40, y)
    tab.page.mouse.down()
    for step in range(10):
        tab.page.mouse.move(x - 40 + 8 * step, y + 2 * step)
    tab.page.mouse.up()
    time.sleep(1)
    tab.upload("images", examples[0].file, examples[2].file)
    tab.page.fill("#example-label textarea, #example-label input", "my fish")
    assert tab.run("^Found in") in {f"Found in {count} of 2 images" for count in (0, 1, 2)}
    written = json.loads(tab.download("json").read_text())
    assert written["settings"]["expression"] == "my fish" and len(written["images"]) == 2
    tab.screenshot("example_1280")


def test_compare_has_both_results(open_tab, examples):
    tab = open_tab("Compare")
    tab.page.locator("#compare-examples button").nth(1).click()
    tab.page.locator("#compare-things").get_by_text(examples[1].things[0], exact=True).wait_for()
    message = tab.run("^Left: .*; Right: ")
    left = json.loads(tab.download("left-json").read_text())
    right = json.loads(tab.download("right-json").read_text())
    assert (left["info"]["output"], right["info"]["output"]) == ("panoptic", "instances")
    assert {entry["kind"] for entry in right["annotations"]} == {"thing"}
    counts = [int(number) for number in re.findall(r"\d+", message)]
    assert counts == [len(left["annotations"]), len(right["annotations"])]
    assert tab.page.locator("#compare-result img").count() == 2


def test_every_tab_fits_the_width(open_tab):
    tab = open_tab("Segment")
    for name in ("Segment", "Refer", "Group", "Click", "Example", "Compare"):
        tab.page.get_by_role("tab", name=name).click()
        run = "#click-add" if name == "Click" else f"#{name.lower()}-run"
        tab.page.locator(run).wait_for(state="visible")
        overflow = tab.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, f"{name} is {overflow} pixels too wide"
