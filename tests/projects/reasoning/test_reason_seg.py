"""Reader of ReasonSeg on files in its form."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from hipie.data.io.validation import DatasetError
from hipie.errors import MissingFileError
from hipie_reasoning.data.reason_seg import load_reason_seg, rasterize

LARGE = [[10, 5], [60, 5], [60, 40], [10, 40]]
SMALL = [[20, 10], [40, 10], [30, 30]]


def shape(label: str, points: list) -> dict:
    return {"label": label, "points": points, "shape_type": "polygon"}


def write(folder, name="a", **changes) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.zeros((50, 80, 3), np.uint8)).save(folder / f"{name}.jpg")
    content = {
        "text": ["What keeps the rain off?", "the thing against rain"],
        "is_sentence": True,
        "shapes": [shape("target", LARGE), shape("ignore", SMALL), shape("flag", LARGE)],
    }
    (folder / f"{name}.json").write_text(json.dumps(content | changes))


def test_small_polygons_are_in_front_of_large_ones() -> None:
    """Whatever their order in the file; an outline belongs to its polygon."""
    expected = np.zeros((50, 80), np.uint8)
    for points, value in ((LARGE, 1), (SMALL, 255)):
        polygon = np.array([points], np.int32)
        cv2.polylines(expected, polygon, True, value, 1)
        cv2.fillPoly(expected, polygon, value)
    shapes = [shape("Ignore this", SMALL), shape("target", LARGE), shape("FLAG", LARGE)]
    for order in (shapes, shapes[::-1]):
        assert np.array_equal(rasterize("a.json", order, (50, 80)), expected)


def test_records_have_questions_target_and_ignored_pixels(tmp_path) -> None:
    write(tmp_path / "train")
    explanations = tmp_path / "train.json"
    entry = {"image": "a.jpg", "query": "q", "outputs": "An umbrella does."}
    explanations.write_text(json.dumps([entry]))
    (record,) = load_reason_seg(tmp_path / "train", explanations)
    assert (record["height"], record["width"]) == (50, 80)
    mask = rasterize("", [shape("target", LARGE), shape("ignore", SMALL)], (50, 80))
    assert np.array_equal(mask_util.decode(record["masks"][0]), mask == 1)
    assert np.array_equal(mask_util.decode(record["ignore"]), mask == 255)
    texts = [question.text for question in record["questions"]]
    assert texts == ["What keeps the rain off?", "the thing against rain"]
    assert all(question.is_question for question in record["questions"])
    assert {question.explanation for question in record["questions"]} == {"An umbrella does."}
    assert record["questions"][0].objects[0].targets == (0,)
    (first,) = load_reason_seg(tmp_path / "train", first_only=True)
    assert [question.text for question in first["questions"]] == texts[:1]


def test_an_image_without_target_is_answered_by_rejection(tmp_path) -> None:
    write(tmp_path / "val", shapes=[])
    (record,) = load_reason_seg(tmp_path / "val")
    assert record["questions"][0].objects[0].targets == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": []}, 'a.json: its "text" has no question'),
        ({"text": ["?"]}, 'a.json: its "text" has no question'),
        ({"text": "what"}, 'a.json: its "text" is not a list'),
        ({"shapes": None}, "a.json: this is not a file of ReasonSeg"),
        ({"shapes": [{"points": LARGE}]}, "a.json: shape 0 has no label"),
        ({"shapes": [shape("target", [["x", 1]])]}, "a.json: the points of shape 0"),
        ({"shapes": [shape("target", [])]}, "a.json: shape 0 has no points"),
    ],
)
def test_files_that_are_wrong_are_named(changes, message, tmp_path) -> None:
    write(tmp_path / "val", **changes)
    with pytest.raises(DatasetError, match=message):
        load_reason_seg(tmp_path / "val")


def test_a_folder_without_files_is_named(tmp_path) -> None:
    with pytest.raises(MissingFileError, match="there is no JSON file"):
        load_reason_seg(tmp_path)


def test_explanations_of_another_form_are_named(tmp_path) -> None:
    write(tmp_path / "train")
    (tmp_path / "train.json").write_text('[{"image": "a.jpg"}]')
    with pytest.raises(DatasetError, match="train.json"):
        load_reason_seg(tmp_path / "train", tmp_path / "train.json")
