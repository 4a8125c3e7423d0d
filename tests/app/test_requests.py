"""Calls of the tabs: checks of the input, results and files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hipie.app.context import PAGE_MODEL, PHOTO_MODEL, Context, draw_examples
from hipie.app.downloads import Downloads, coco_dataset
from hipie.app.requests import Limits, Requests, join, painted_example
from hipie.app.work import CancelledWorkError, Progress
from hipie.errors import InputError
from hipie.segmentation import Segment, Segmentation


class Recorder:
    """A segmenter that records its calls."""

    def __init__(self, *tasks: str) -> None:
        self.calls = []
        self.model = SimpleNamespace(tasks=tasks)
        limit = SimpleNamespace(MAX_PIXELS=50_000_000)
        self.cfg = SimpleNamespace(INPUT=limit, defrost=lambda: None)

    def _call(self, name, *arguments, **options):
        self.calls.append((name, arguments, options))
        mask = np.zeros((4, 6), bool)
        mask[1:3, 1:5] = True
        return Segmentation(np.zeros((4, 6, 3), np.uint8), [Segment("dog", "thing", mask, 0.5)])

    def segment(self, *arguments, **options):
        return self._call("segment", *arguments, **options)

    def refer(self, *arguments, **options):
        return self._call("refer", *arguments, **options)

    def prompt(self, *arguments):
        return self._call("prompt", *arguments)

    def like(self, *arguments):
        return self._call("like", *arguments)

    def refer_group(self, images, expression):
        return [self._call("group", image, expression) for image in images]


def requests_of(segmenter, **limits) -> Requests:
    return Requests(SimpleNamespace(get=lambda name, report: segmenter), Limits(**limits))


def test_chips_are_read_as_on_the_command_line():
    segmenter = Recorder("universal")
    names = {"things": ["dog, puppy", "cat; cow"], "stuff": [], "parts": ["dog: head, tail"]}
    text, result = requests_of(segmenter).segment(
        Progress(), "m", "a.png", names, "instances", 0.25
    )
    assert (text, len(result)) == ("1 segment", 1)
    ((_, arguments, options),) = segmenter.calls
    things = [("dog", "puppy"), ("cat",), ("cow",)]
    assert arguments == ("a.png", things, [], {"dog": ["head", "tail"]})
    assert options == {"output": "instances", "min_score": 0.25}
    assert segmenter.cfg.INPUT.MAX_PIXELS == 25_000_000
    assert join(None) == "" and join("a; b") == "a; b"


def test_a_group_is_compared_by_models_that_do_and_segmented_one_by_one_by_others():
    for task, name, note in (
        ("group", "group", ""),
        ("referring", "refer", "; m segments each image by itself"),
    ):
        segmenter = Recorder(task)
        text, results = requests_of(segmenter).group(Progress(), "m", ["a", "b"], " the dog ")
        assert text == f"Found in 2 of 2 images{note}" and len(results) == 2
        assert segmenter.calls == [(name, (image, "the dog"), {}) for image in ("a", "b")]


def test_expressions_are_lines():
    segmenter = Recorder("referring")
    text, _ = requests_of(segmenter).refer(Progress(), "m", "a", "the dog\n\n the cat ")
    assert segmenter.calls == [("refer", ("a", ["the dog", "the cat"]), {})]
    assert text == "1 of 1 expression found"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, p: r.segment(p, "m", None, {"things": ["a"]}), "choose an image"),
        (lambda r, p: r.segment(p, "m", "a", {}), "name at least one thing, stuff or part"),
        (lambda r, p: r.segment(p, "m", "a", {"parts": ["wheel"]}), "whole: part"),
        (
            lambda r, p: r.segment(p, "m", "a", {"things": [f"n{i}" for i in range(5000)]}),
            "5,000 class names, and at most 1,000",
        ),
        (lambda r, p: r.refer(p, "m", "a", "\n"), "at least one expression"),
        (lambda r, p: r.refer(p, "m", "a", "x\n" * 2000), "2,000 expressions"),
        (lambda r, p: r.group(p, "m", [], "x"), "at least one image"),
        (lambda r, p: r.group(p, "m", ["a"] * 25, "x"), "25 images, and at most 24"),
        (lambda r, p: r.group(p, "m", ["a"], " "), "write the expression"),
        (lambda r, p: r.like(p, "m", None, "", ["a"]), "choose the example image"),
        (
            lambda r, p: r.like(
                p, "m", (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), bool)), "", ["a"]
            ),
            "paint the object",
        ),
    ],
)
def test_unusable_input_is_refused_before_a_model_is_needed(call, message):
    segmenter = Recorder("universal", "referring")
    with pytest.raises(InputError, match=message):
        call(requests_of(segmenter), Progress())
    assert segmenter.calls == []


def test_cancelled_groups_end_before_the_next_image():
    progress, segmenter = Progress(), Recorder("referring")
    original = segmenter.refer

    def refer(*arguments):
        progress.is_cancelled.set()
        return original(*arguments)

    segmenter.refer = refer
    with pytest.raises(CancelledWorkError):
        requests_of(segmenter).group(progress, "m", ["a", "b", "c"], "x")
    assert len(segmenter.calls) == 1


def test_whatever_is_painted_is_the_example():
    background = np.full((4, 6, 4), 9, np.uint8)
    layer = np.zeros((8, 12, 4), np.uint8)
    layer[:4, :6, 3] = 255
    image, mask = painted_example({"background": background, "layers": [layer]})
    assert image.shape == (4, 6, 3) and (image == 9).all()
    assert mask[:2, :3].all() and mask.sum() == 6
    assert painted_example(None) is None
    assert painted_example({"background": None, "layers": []}) is None
    with pytest.raises(InputError, match="^this is not an image$"):
        painted_example({"error": "this is not an image"})


def test_images_of_the_editor_are_checked_before_they_are_decoded(tmp_path, monkeypatch):
    """Files, and the bytes that the editor keeps until it is read."""
    editors = pytest.importorskip("gradio.components.image_editor")
    from gradio.data_classes import FileData

    from hipie.app.paint_editor import paint_editor

    file = tmp_path / "a.png"
    Image.new("RGB", (30, 20), (9, 8, 7)).save(file)
    given = editors.EditorData(background=FileData(path=str(file)), layers=[])
    assert paint_editor("a", "a", 600).preprocess(given)["background"].shape[:2] == (20, 30)
    editor = paint_editor("a", "a", 599)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    assert "30x20 are too many" in editor.preprocess(given)["error"]
    editor.blob_storage["x"] = editors.EditorDataBlobs(
        background=file.read_bytes(), layers=[], composite=None
    )
    blobs = editors.EditorData(background=None, layers=[], composite=None, id="x")
    assert "30x20 are too many" in editor.preprocess(blobs)["error"]
    assert editor.blob_storage == {}
    file.write_bytes(b"text")
    assert "not an image that can be read" in editor.preprocess(given)["error"]


def test_a_box_stands_for_painting():
    value = {"background": np.full((40, 60, 4), 9, np.uint8), "layers": []}
    _, mask = painted_example(value, " 5, 10; 20 30 ")
    assert mask[10:30, 5:20].all() and mask.sum() == 20 * 15
    assert painted_example(value, "0,0,60,40")[1].all()
    assert not painted_example(value, " ")[1].any()
    for box, message in (
        ("5, 10, 20", "a box is left, top, right, bottom in pixels"),
        ("5, 10, 20, x", 'not "5, 10, 20, x"'),
        ("-5, 10, 20, 30", "a box is"),
        ("20, 10, 20, 30", "is not inside of the image of 60 x 40 pixels"),
        ("5, 10, 61, 30", "the box from (5, 10) to (61, 30) is not inside"),
        ("5, 10, 20, 41", "is not inside"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            painted_example(value, box)


def test_downloads_are_read_by_pycocotools(tmp_path):
    mask = np.zeros((20, 30), bool)
    mask[2:12, 3:23] = True
    part = np.zeros((20, 30), bool)
    part[4:8, 5:9] = True
    empty = Segment("cat", "thing", np.zeros((20, 30), bool), 0.0)
    car = Segment("car", "thing", mask, 0.9, (Segment("wheel", "part", part, 0.5),))
    result = Segmentation(np.zeros((20, 30, 3), np.uint8), [empty, car], file_name="x/a.png")
    downloads = Downloads(tmp_path / "results", keep=2)
    drawing, dataset = downloads.write(result, {"model": "m"})
    with Image.open(drawing) as image:
        assert image.format == "PNG"
    coco = COCO(dataset)
    assert coco.loadImgs(1)[0]["file_name"] == "a.png"
    whole, wheel = coco.loadAnns(coco.getAnnIds())
    assert [coco.cats[entry["category_id"]]["name"] for entry in (whole, wheel)] == ["car", "wheel"]
    assert wheel["part_of"] == whole["id"] and "part_of" not in whole
    assert np.array_equal(coco_mask.decode(whole["segmentation"]), mask)
    assert coco_dataset(result, {"model": "m"})["info"]["model"] == "m"
    sheet, content = downloads.write_group([result], ["a.png"], {"expression": "x"})
    assert json.loads(Path(content).read_text())["images"][0]["shown"] is True
    downloads.write(result, {})
    assert not Path(drawing).exists() and Path(sheet).exists()


def test_example_images_are_ready(tmp_path):
    examples = draw_examples(tmp_path)
    assert len(examples) >= 5
    for example in examples:
        with Image.open(example.file) as image:
            image.load()
        assert example.things and example.expressions
    page = next(example for example in examples if example.parts)
    whole, _, names = page.parts[0].partition(": ")
    assert whole in page.things and not names.startswith(whole)
    context = Context(None, None, None, None, [PHOTO_MODEL, PAGE_MODEL], "")
    assert [context.model_for(one) for one in (examples[0], page)] == [PHOTO_MODEL, PAGE_MODEL]
    context.text_models.insert(0, "my-model")
    assert context.model_for(page) == "my-model"
