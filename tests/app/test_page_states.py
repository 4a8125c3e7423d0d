"""The page in a real browser on models without a network: errors, cancelling, looks, accessibility.

Needs Debian's chromium and playwright; axe-core as well where it is named:
`npm ci --prefix tests/app`. Screenshots are written to output/app/.
"""

from __future__ import annotations

import json
import re
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.app.browser import ROOT, TABS, Tab, page_of
from tests.app.gradio_violations import KNOWN

pytestmark = pytest.mark.slow
AXE = Path(__file__).parent / "node_modules/axe-core/axe.min.js"


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """The address of the page with the stub models."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with page_of(str(ROOT / "tests/app/stub_page.py"), cwd=folder) as address:
        yield address


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """An image whose upper half has one colour."""
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[:45] = (200, 30, 40)
    file = tmp_path_factory.mktemp("photo") / "half.png"
    Image.fromarray(pixels).save(file)
    return file


def large_png(side: int) -> bytes:
    """A PNG of few bytes whose header has many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def test_the_page_says_in_one_sentence_what_it_cannot_use(open_tab, photo, tmp_path):
    """At the upload and at the start; with the name that the user knows, not the server's path."""
    tab = open_tab("Segment")
    assert tab.run("choose") == "choose an image"
    assert tab.role() == "alert"
    tab.upload("image", photo)
    assert tab.run("^name") == "name at least one thing, stuff or part"
    tab.page.locator("#segment-image").get_by_label("Remove Image").click()
    tab.chip("things", "dog")
    for name, content, reason in (
        ("nothing.png", b"", "the image is an empty file"),
        ("text.png", b"hello", "this is not an image that can be read"),
        ("huge.png", large_png(20_000), "the image has too many pixels"),
        ("large.png", large_png(2_000), "2000x2000 are too many"),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        tab.choose("image", file)
        said = tab.message(f"^{name}: {reason}")
        assert tab.role() == "alert" and "\n" not in said and "/" not in said
        tab.page.click("#segment-run")
        tab.message(f"^{name}: {reason}")
        if name == "nothing.png":
            tab.screenshot("bad_image_1280")
        tab.page.locator("#segment-image").get_by_label("Remove Image").click()
    tab.upload("image", photo)
    tab.chip("things", "; ".join(f"n{number}" for number in range(4999)))
    assert tab.run("^there are") == "there are 5,000 class names, and at most 1,000 are accepted"
    # Chromium reports the images that it cannot show either.
    tab.errors.clear()


@pytest.mark.parametrize(
    ("name", "element"),
    [
        ("Refer", "image"),
        ("Compare", "image"),
        ("Click", "image"),
        ("Group", "images"),
        ("Example", "images"),
    ],
)
def test_every_tab_names_the_image_that_it_cannot_use(open_tab, photo, tmp_path, name, element):
    tab = open_tab(name)
    text, huge = tmp_path / "text.png", tmp_path / "huge.png"
    text.write_bytes(b"hello")
    huge.write_bytes(large_png(20_000))
    for file, reason in (
        (text, "this is not an image that can be read"),
        (huge, "the image has too many pixels"),
    ):
        if name in ("Refer", "Click", "Compare"):
            tab.choose(element, file)
        elif name == "Group":
            tab.upload(element, photo, file)
            tab.page.fill("#group-text textarea, #group-text input", "dog")
            tab.page.click("#group-run")
        else:
            tab.edit(photo)
            tab.page.fill("#example-box textarea, #example-box input", "0, 0, 120, 45")
            tab.upload(element, photo, file)
            tab.page.click("#example-run")
        tab.message(f"^{file.name}: {reason}")
        assert tab.role() == "alert"
        if name != "Example":
            remove = "Clear" if name == "Group" else "Remove Image"
            tab.page.locator(f"#{tab.name}-{element}").get_by_label(remove).first.click()
        else:
            tab = open_tab(name)
    tab.errors.clear()


def test_files_that_are_too_large_are_refused_before_they_are_sent(open_tab, tmp_path):
    tab = open_tab("Segment")
    file = tmp_path / "hundred_megabytes.png"
    with open(file, "wb") as stream:
        stream.truncate(100_000_000)
    sent: list[str] = []
    tab.page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    tab.choose("image", file)
    said = tab.page.get_by_text("exceed the maximum allowed size")
    said.wait_for()
    assert "hundred_megabytes.png" in said.inner_text()
    assert not [request for request in sent if request.startswith("POST") and "/upload" in request]


def test_a_load_that_does_not_end_is_shown_and_can_be_cancelled(open_tab, photo):
    tab = open_tab("Refer")
    tab.upload("image", photo)
    tab.page.fill("#refer-text textarea", "the dog")
    tab.pick("model", "slow")
    tab.page.click("#refer-run")
    assert tab.message(r"^Loading slow \(\d+ s\)$")
    tab.page.locator("#model-status", has_text="Loading slow: ").wait_for()
    tab.page.click("#refer-cancel")
    assert tab.message("^Cancelled$")
    tab.pick("model", "quick")
    assert tab.run("found$") == "1 of 1 expression found"


def test_a_load_that_fails_is_one_sentence_and_other_models_work(open_tab, photo):
    tab = open_tab("Refer")
    tab.upload("image", photo)
    tab.page.fill("#refer-text textarea", "the dog")
    tab.pick("model", "broken")
    tab.page.locator("#model-status", has_text="broken: weights.pth is cut short").wait_for()
    assert tab.run("cut short") == "weights.pth is cut short"
    assert tab.role() == "alert"
    tab.pick("model", "quick")
    assert tab.run("found$") == "1 of 1 expression found"


def test_cancelled_work_ends_before_its_next_image(open_tab, photo, tmp_path):
    """24 images of a second each: the next request does not wait for them."""
    files = []
    for number in range(24):
        file = tmp_path / f"{number}.png"
        file.write_bytes(photo.read_bytes())
        files.append(file)
    tab = open_tab("Group")
    tab.upload("images", *files)
    tab.page.fill("#group-text textarea, #group-text input", "wait")
    tab.page.click("#group-run")
    tab.message("^Segmenting image [12] of 24")
    tab.page.click("#group-cancel")
    assert tab.message("^Cancelled$")
    start = time.monotonic()
    tab.page.fill("#group-text textarea, #group-text input", "dog")
    said = "Found in 24 of 24 images; quick segments each image by itself"
    assert tab.run("^Found in") == said
    assert time.monotonic() - start < 15
    images = json.loads(tab.download("json").read_text())["images"]
    assert [entry["image"]["file"] for entry in images] == [file.name for file in files]


def test_opacity_and_legend_repaint_the_result(open_tab, photo):
    tab = open_tab("Segment")
    tab.upload("image", photo)
    tab.chip("things", "dog", "cat")
    tab.run("^2 segments$")

    def shown() -> np.ndarray:
        source = tab.page.locator("#segment-result img").get_attribute("src")
        body = tab.context.request.get(source).body()
        file = photo.parent / "shown.png"
        file.write_bytes(body)
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def after(act) -> np.ndarray:
        source = tab.page.locator("#segment-result img").get_attribute("src")
        act()
        tab.page.wait_for_function(
            "source => document.querySelector('#segment-result img').src !== source", arg=source
        )
        return shown()

    half = shown()
    number = tab.page.locator("#segment-opacity input[type=number]")

    def set_opacity(value: str) -> None:
        number.fill(value)
        number.press("Enter")
        number.blur()

    clear = after(lambda: set_opacity("0"))
    assert tuple(clear[20, 60]) == (200, 30, 40) != tuple(half[20, 60])
    full = after(lambda: set_opacity("1"))
    first, second = (tab.page.locator("#segment-legend input").nth(position) for position in (1, 2))
    one = after(first.check)
    other = after(second.check)
    # The second mask is painted over the first one, which has the same pixels.
    assert (other == full).all() and tuple(one[20, 60]) != tuple(other[20, 60])
    assert (one[60:] == clear[60:]).all()


def test_a_tab_is_opened_filled_and_run_by_the_keyboard(open_tab, photo):
    """Tab, text and button by the keyboard alone."""
    tab = open_tab("Segment")
    tab.page.get_by_role("tab", name="Segment", exact=True).focus()
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.page.locator("#refer-run").wait_for(state="visible")
    tab.name = "refer"
    tab.upload("image", photo)
    tab.page.locator("#refer-text textarea").focus()
    tab.page.keyboard.type("the dog")
    for _ in range(6):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.closest('#refer-run') !== null"):
            break
    tab.page.keyboard.press("Enter")
    assert tab.message("found$") == "1 of 1 expression found"


def test_sliders_are_moved_by_the_keyboard(open_tab, photo):
    """The opacity of the masks, and the divider of a comparison."""
    tab = open_tab("Segment")
    tab.upload("image", photo)
    tab.chip("things", "dog")
    tab.run("^1 segment$")
    source = tab.page.locator("#segment-result img").get_attribute("src")
    tab.page.locator("#segment-opacity input[type=range]").focus()
    tab.page.keyboard.press("ArrowRight")
    tab.page.wait_for_function(
        "source => document.querySelector('#segment-result img').src !== source", arg=source
    )
    tab.show("Compare")
    tab.upload("image", photo)
    tab.chip("things", "dog")
    tab.run("1 segment; Right")
    divider = tab.page.locator("#compare-result [data-testid=slider]")
    place = divider.get_attribute("style")
    tab.page.locator("#compare-divider input[type=range]").focus()
    tab.page.keyboard.press("ArrowRight")
    tab.page.wait_for_function(
        "place => document.querySelector('#compare-result [data-testid=slider]')"
        ".getAttribute('style') !== place",
        arg=place,
    )


def test_an_unreadable_example_is_told_and_a_box_stands_for_painting(open_tab, photo, tmp_path):
    text = tmp_path / "text.png"
    text.write_bytes(b"hello")
    tab = open_tab("Example")
    tab.choose("editor", text)
    tab.upload("images", photo)
    tab.page.fill("#example-box textarea, #example-box input", "0, 0, 120, 45")
    assert tab.run("^choose") == "choose the example image"
    tab.errors.clear()  # the editor's own, about the image
    tab = open_tab("Example")
    fill(tab, "Example", photo)
    content = json.loads(tab.download("json").read_text())
    assert [entry["image"]["file"] for entry in content["images"]] == [photo.name]
    tab.page.fill("#example-box textarea, #example-box input", "0, 0, 121, 45")
    said = "the box from (0, 0) to (121, 45) is not inside of the image of 120 x 90 pixels"
    assert tab.run("^the box") == said


def fill(tab: Tab, name: str, photo: Path) -> None:
    """Bring the open tab to a result."""
    if name in ("Segment", "Compare"):
        tab.upload("image", photo)
        tab.chip("things", "dog", "cat")
        tab.run("2 segments")
    elif name == "Refer":
        tab.upload("image", photo)
        tab.page.fill("#refer-text textarea", "the dog\nthe cat")
        tab.run("found$")
    elif name == "Group":
        tab.upload("images", photo)
        tab.page.fill("#group-text textarea, #group-text input", "dog")
        tab.run("^Found in")
        hidden = tab.page.evaluate(
            "() => document.querySelector('#group-result .caption-label')"
            ".getBoundingClientRect().bottom - document.querySelector('#group-result .grid-wrap')"
            ".getBoundingClientRect().bottom"
        )
        assert hidden <= 0, f"{hidden} pixels of the caption of a single result are cut off"
    elif name == "Click":
        tab.upload("image", photo)
        tab.page.fill("#click-x input", "60")
        tab.page.fill("#click-y input", "20")
        tab.page.click("#click-add")
        tab.message("^Mask of")
    elif name == "Example":
        tab.edit(photo)
        tab.page.fill("#example-box textarea, #example-box input", "0, 0, 120, 45")
        tab.upload("images", photo)
        tab.run("^Found in 1 of 1 image$")


def contrast(tab: Tab, selector: str) -> float:
    """Contrast of an element's text with the page's background (WCAG 2, section 1.4.3)."""
    colours = tab.page.evaluate(
        "selector => [getComputedStyle(document.querySelector(selector)).color,"
        " getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    light, dark = sorted(map(luminance, colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of a colour "rgb(1, 2, 3)"."""
    channels = [int(text) / 255 for text in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tabs_with_results_fit_and_are_accessible(open_tab, photo, scheme, width):
    """axe-core finds nothing but gradio's own violations, which are listed by rule and selector."""
    tab = open_tab("Segment", width=width, color_scheme=scheme)
    is_dark = tab.page.evaluate("document.body.classList.contains('dark')")
    assert is_dark == (scheme == "dark")
    violations = []
    if AXE.is_file():
        tab.page.add_script_tag(path=AXE)
    assert not tab.page.get_by_label("More tabs").is_visible()
    for name in TABS:
        tab.show(name)
        assert contrast(tab, "[role=tab][aria-selected=true]") >= 4.5
        if AXE.is_file() and width == 1280:
            violations += serious(tab, f"{name}, empty")
        fill(tab, name, photo)
        overflow = tab.overflow()
        assert overflow <= 0, f"{name} is {overflow} pixels too wide"
        tab.screenshot(f"{name.lower()}_{scheme}_{width}")
        if AXE.is_file():
            violations += serious(tab, name)
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm ci --prefix tests/app")
    assert violations == []


def serious(tab: Tab, name: str) -> list[str]:
    """Serious and critical violations of the visible page that are not gradio's listed ones."""
    return tab.page.evaluate(
        """async ([name, known]) => {
            const options = {resultTypes: ['violations'], elementRef: true};
            const {violations} = await axe.run(document, options);
            return violations.filter(rule => ['serious', 'critical'].includes(rule.impact)).flatMap(
                rule => rule.nodes.filter(
                    node => !(known[rule.id] || []).some(selector => node.element.matches(selector))
                ).map(node => [name, rule.id, node.target, node.html.slice(0, 200),
                               node.failureSummary].join(': '))
            );
        }""",
        [name, {rule: list(selectors) for rule, selectors in KNOWN.items()}],
    )
