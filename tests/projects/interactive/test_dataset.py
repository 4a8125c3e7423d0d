"""Objects to click on, from COCO's annotations and from panoptic maps."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hipie_interactive.data.dataset import TargetsMapper


@pytest.fixture
def record(tmp_path):
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    return {"file_name": str(tmp_path / "a.png"), "height": 30, "width": 40, "image_id": 1}


def test_crowds_and_empty_masks_are_left_out(record):
    square = [5, 5, 15, 5, 15, 20, 5, 20]
    sliver = [5.0, 5, 5, 5, 5, 5]
    record["annotations"] = [
        {"segmentation": [square], "category_id": 0, "iscrowd": 0},
        {"segmentation": [square], "category_id": 0, "iscrowd": 1},
        {"segmentation": [sliver], "category_id": 0, "iscrowd": 0},
    ]
    item = TargetsMapper()(record)
    assert item["image"].shape == (3, 30, 40)
    expected = np.zeros((1, 30, 40), bool)
    expected[0, 5:20, 5:15] = True
    assert np.array_equal(item["targets"], expected)


def test_stuff_of_panoptic_maps_is_left_out(record, tmp_path):
    ids = np.zeros((30, 40, 3), np.uint8)
    ids[:10, :, 0], ids[10:, :, 0] = 1, 2
    Image.fromarray(ids).save(tmp_path / "p.png")
    record["pan_seg_file_name"] = str(tmp_path / "p.png")
    record["segments_info"] = [
        {"id": 1, "category_id": 0, "isthing": True, "iscrowd": 0},
        {"id": 2, "category_id": 1, "isthing": False, "iscrowd": 0},
    ]
    targets = TargetsMapper()(record)["targets"]
    assert targets.shape == (1, 30, 40)
    assert targets[0, :10].all()
    assert not targets[0, 10:].any()


def test_image_of_another_size_is_named(record):
    record["height"] = 31
    with pytest.raises(ValueError, match="a.png: the image has 40x30"):
        TargetsMapper()({**record, "annotations": []})
