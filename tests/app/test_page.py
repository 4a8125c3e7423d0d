"""The page in a real browser with the packaged models: every tab, by the files that it downloads.

Needs Debian's chromium and playwright. Screenshots are written to output/app/.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hipie import Segmenter
from hipie.app.context import PAGE_MODEL, draw_examples
from tests.app.browser import page_of

CLICK_MODEL = "hipie_interactive/sam_random_picturebook.yaml"
EXAMPLE_MODEL = "hipie_fewshot/persam_random_picturebook.yaml"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):
    """The address of `hipie app`, started in a folder from which nothing is read."""
    models = ["--click-model", CLICK_MODEL, "--example-model", EXAMPLE_MODEL]
    command = ["-m", "hipie", "app", "--port", "0", "--device", "cpu", *models]
    with page_of(*command, cwd=tmp_path_factory.mktemp("elsewhere")) as address:
        yield address


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return draw_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def pages(examples):
    """The example images that the model of the picture book is for."""
    return [example for example in examples if example.model == PAGE_MODEL]


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter.from_pretrained(PAGE_MODEL, "cpu")


def masks(content: dict) -> list[tuple[str, str]]:
    """Name and RLE of every annotation of a COCO data set."""
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    return [
        (names[entry["category_id"]], entry["segmentation"]["counts"])
        for entry in content["annotations"]
    ]


def test_segment_writes_what_the_segmenter_returns(open_tab, examples, pages, segmenter):
    tab = open_tab("Segment")
    example = pages[0]
    tab.page.locator("#segment-examples button").nth(examples.index(example)).click()
    tab.page.locator("#segment-things").get_by_text(example.things[0], exact=True).wait_for()
    tab.run(r"^\d+ segments?$")
    file = tab.download("json")
    content = json.loads(file.read_text())
    assert content["info"]["model"] == PAGE_MODEL
    result = segmenter.segment(
        example.file,
        *("; ".join(names) for names in (example.things, example.stuff, example.parts)),
    )
    expected = [
        (segment.label, segment.rle["counts"]) for _, segment in result.walk() if segment.area
    ]
    assert masks(content) == expected
    assert len(COCO(file).getAnnIds()) == len(expected)
    with Image.open(tab.download("png")) as image:
        assert image.format == "PNG"
    # The legend: one mask alone, by the keyboard.
    source = tab.page.locator("#segment-result img").get_attribute("src")
    tab.page.locator("#segment-legend input").nth(1).focus()
    tab.page.keyboard.press("Space")
    tab.page.wait_for_function(
        "source => document.querySelector('#segment-result img').src !== source", arg=source
    )
    tab.screenshot("segment_one_mask")


def test_names_are_chips_that_can_be_edited(open_tab, examples):
    """On a photograph, which the first model is for."""
    tab = open_tab("Segment")
    tab.upload("image", examples[0].file)
    tab.chip("things", "horse", "car, automobile", "spoon")
    tab.page.locator("#segment-things").get_by_title("Remove spoon").click()
    tab.chip("stuff", "grass")
    tab.run(r"^\d+ segments?$")
    content = json.loads(tab.download("json").read_text())
    assert content["info"]["things"] == ["horse", "car, automobile"]
    assert {entry["name"] for entry in content["categories"]} <= {"horse", "car", "grass"}
    assert "horse" in dict(masks(content))
    assert content["images"][0]["file_name"] == Path(examples[0].file).name
    tab.screenshot("segment_photograph")


def test_refer_has_a_segment_for_every_expression(open_tab, examples, pages, segmenter):
    tab = open_tab("Refer")
    example = pages[2]
    tab.page.locator("#refer-examples button").nth(examples.index(example)).click()
    tab.page.locator("#refer-image img").wait_for()
    tab.page.fill("#refer-text textarea", "the red fish\nthe car")
    assert tab.run("expressions found$") == "2 of 2 expressions found"
    content = json.loads(tab.download("json").read_text())
    result = segmenter.refer(example.file, ["the red fish", "the car"])
    assert masks(content) == [(segment.label, segment.rle["counts"]) for segment in result]
    scores = [entry["score"] for entry in content["annotations"]]
    assert scores == pytest.approx([segment.score for segment in result], abs=1e-3)
    tab.screenshot("refer_page")


def test_group_says_which_images_show_it(open_tab, pages):
    tab = open_tab("Group")
    files = [page.file for page in pages]
    tab.upload("images", *files)
    tab.page.fill("#group-text textarea, #group-text input", "fish")
    said = tab.run("^Found in")
    content = json.loads(tab.download("json").read_text())
    shown = [entry["shown"] for entry in content["images"]]
    assert said == f"Found in {sum(shown)} of 3 images"
    assert [entry["image"]["file"] for entry in content["images"]] == [
        Path(file).name for file in files
    ]
    # The pages of fish among things.
    assert shown == ["fish" in page.things for page in pages]
    tab.screenshot("group_pages")


def test_points_boxes_and_scribbles_are_prompts_with_undo(open_tab, pages):
    """The downloaded mask is that of `Segmenter.prompt` with the prompts of the file."""
    tab = open_tab("Click")
    tab.upload("image", pages[0].file)
    tab.message("^Add a point")
    tab.page.locator("#click-canvas img").click()
    tab.message("^Mask of")
    content = json.loads(tab.download("json").read_text())
    with Image.open(pages[0].file) as image:
        width, height = image.size
    ((x, y),) = content["info"]["inside"]
    assert abs(x - width / 2) <= 2 and abs(y - height / 2) <= 2

    def type_point(column: int, row: int, shown: str = "canvas") -> None:
        """Add a click by its pixel, and wait until an image has changed."""
        source = tab.page.locator(f"#click-{shown} img").get_attribute("src")
        tab.page.fill("#click-x input", str(column))
        tab.page.fill("#click-y input", str(row))
        tab.page.click("#click-add")
        tab.page.wait_for_function(
            "([selector, source]) => document.querySelector(selector).src !== source",
            arg=[f"#click-{shown} img", source],
        )

    tab.page.click("#click-undo")
    tab.message("^Add a point")
    tab.page.get_by_label("Box", exact=True).check()
    type_point(250, 200)
    tab.message("^Add a point")
    type_point(60, 40, "result")
    tab.page.get_by_label("Scribble", exact=True).check()
    type_point(100, 100, "result")
    type_point(140, 120, "result")
    content = json.loads(tab.download("json").read_text())
    info = content["info"]
    assert info["inside"] == [] and info["box"] == [60, 40, 250, 200]
    assert info["scribbles"] == [[[100, 100], [140, 120]]]
    prompt = {name: info[name] for name in ("inside", "outside", "box", "scribbles")}
    model = Segmenter.from_config(CLICK_MODEL, device="cpu")
    expected = model.prompt(pages[0].file, [prompt])
    (annotation,) = content["annotations"]
    assert np.array_equal(coco_mask.decode(annotation["segmentation"]), expected.segments[0].mask)
    tab.page.fill("#click-x input", "5000")
    tab.page.click("#click-add")
    assert (
        tab.message("outside")
        == f"(5000, 120) is outside of the image of {width} x {height} pixels"
    )
    tab.screenshot("click_page")


def test_example_is_painted_and_searched(open_tab, pages):
    tab = open_tab("Example")
    assert tab.run("^choose") == "choose the example image"
    tab.edit(pages[2].file)
    box = tab.page.locator("#example-editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.move(x - 40, y)
    tab.page.mouse.down()
    for step in range(10):
        tab.page.mouse.move(x - 40 + 8 * step, y + 2 * step)
    tab.page.mouse.up()
    time.sleep(1)
    tab.upload("images", pages[0].file, pages[2].file)
    tab.page.fill("#example-label textarea, #example-label input", "my fish")
    assert tab.run("^Found in") in {f"Found in {count} of 2 images" for count in (0, 1, 2)}
    content = json.loads(tab.download("json").read_text())
    assert content["settings"]["expression"] == "my fish"
    assert [entry["image"]["file"] for entry in content["images"]] == [
        Path(page.file).name for page in (pages[0], pages[2])
    ]
    tab.screenshot("example_page")


def test_compare_has_both_results(open_tab, examples, pages, segmenter):
    tab = open_tab("Compare")
    example = pages[1]
    tab.page.locator("#compare-examples button").nth(examples.index(example)).click()
    tab.page.locator("#compare-things").get_by_text(example.things[0], exact=True).wait_for()
    said = tab.run("^Left: .*; Right: ")
    left, right = (
        json.loads(tab.download(f"{side}-json").read_text()) for side in ("left", "right")
    )
    assert (left["info"]["output"], right["info"]["output"]) == ("panoptic", "instances")
    for content in (left, right):
        result = segmenter.segment(
            example.file,
            "; ".join(example.things),
            "; ".join(example.stuff),
            output=content["info"]["output"],
        )
        assert masks(content) == [(segment.label, segment.rle["counts"]) for segment in result]
    counts = [int(number) for number in re.findall(r"\d+", said)]
    assert counts == [len(left["annotations"]), len(right["annotations"])]
    assert tab.page.locator("#compare-result img").count() == 2
    tab.screenshot("compare_page")
