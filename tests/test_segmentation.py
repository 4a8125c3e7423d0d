"""The result type: boxes, COCO results that pycocotools decodes, and drawings."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from hipie.segmentation import Segment, Segmentation


def example() -> Segmentation:
    image = np.full((40, 60, 3), 200, np.uint8)
    whole = np.zeros((40, 60), bool)
    whole[5:25, 10:30] = True
    part = np.zeros_like(whole)
    part[5:10, 10:20] = True
    segments = [
        Segment("dog", "thing", whole, 0.75, [Segment("dog head", "part", part, 0.5)]),
        Segment("the cat", "sentence", np.zeros_like(whole), 0.0),
    ]
    return Segmentation(image, segments)


def test_boxes_go_around_masks() -> None:
    assert example().boxes.tolist() == [[10, 5, 30, 25], [0, 0, 0, 0]]


def test_parts_stand_under_their_whole() -> None:
    assert [part.label for part in example().parts["dog"]] == ["dog head"]


def test_coco_results_decode_to_the_masks() -> None:
    found = example()
    for result, segment in zip(found.to_coco(), found, strict=True):
        decoded = coco_mask.decode(result["segmentation"]).astype(bool)
        assert np.array_equal(decoded, segment.mask)
        assert result["area"] == segment.mask.sum()
    assert found.to_coco()[0]["bbox"] == [10, 5, 20, 20]
    assert found.to_coco()[0]["parts"][0]["label"] == "dog head"


def test_nothing_found_is_an_empty_result() -> None:
    found = Segmentation(np.zeros((4, 6, 3), np.uint8), [])
    assert found.masks.shape == (0, 4, 6)
    assert found.boxes.shape == (0, 4)
    assert found.to_coco() == []


def test_saved_as_an_image_or_as_json(tmp_path) -> None:
    found = example()
    drawing = Image.open(found.save(tmp_path / "new" / "page.png", "a title"))
    assert drawing.size == found.draw("a title").size
    written = json.loads(found.save(tmp_path / "page.json").read_text())
    assert written == found.to_coco()


def test_the_drawing_paints_the_mask_and_leaves_the_rest() -> None:
    found = example()
    drawn = np.asarray(found.draw())
    scale = round(420 / 40)
    inside = drawn[20 * scale, 25 * scale]
    outside = drawn[35 * scale, 50 * scale]
    assert not np.array_equal(inside, [200, 200, 200])
    assert np.array_equal(outside, [200, 200, 200])
