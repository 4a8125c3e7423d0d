"""Masks from annotation formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import transforms as T
from PIL import Image

from hipie.data.dataset_mappers.annotations import (
    decode_mask,
    instance_masks,
    masks_to_instances,
    panoptic_masks,
    part_masks,
)
from hipie.data.image_io import read_label_map

SAME = T.NoOpTransform()


def test_panoptic_ids_use_all_three_channels() -> None:
    ids = np.array([[1, 1, 256], [70000, 0, 256]])
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    segments = [
        {"id": 70000, "category_id": 4},
        {"id": 1, "category_id": 2, "iscrowd": 0},
        {"id": 256, "category_id": 9, "iscrowd": 1},
    ]
    masks, classes = panoptic_masks(colours, segments, SAME)
    assert classes.tolist() == [4, 2]
    assert (masks[0] == (ids == 70000)).all() and (masks[1] == (ids == 1)).all()
    flipped, _ = panoptic_masks(colours, segments, T.HFlipTransform(3))
    assert (flipped == masks[:, :, ::-1]).all()


def test_part_masks_are_connected_components() -> None:
    labels = np.array(
        [
            [1, 0, 1, 1, 0, 3],
            [0, 1, 0, 0, 0, 3],
            [0, 0, 0, 0, 1, 3],
            [2, 2, 0, 1, 1, 0],
        ],
        dtype=np.uint8,
    )
    masks, classes = part_masks(labels, SAME, min_area=1)
    assert classes.tolist() == [0, 0, 1, 2]
    assert [int(m.sum()) for m in masks] == [4, 3, 2, 3]
    assert (masks.sum(axis=0) == (labels > 0)).all()
    masks, classes = part_masks(labels, SAME, min_area=3)
    assert classes.tolist() == [0, 0, 2]
    masks, classes = part_masks(labels, SAME, min_area=100)
    assert masks.shape == (0, 4, 6) and len(classes) == 0


def test_wide_part_maps() -> None:
    labels = np.zeros((20, 20), dtype=np.uint16)
    labels[5:15, 5:15] = 459
    masks, classes = part_masks(labels, T.ResizeTransform(20, 20, 40, 40), min_area=100)
    assert classes.tolist() == [458]
    assert masks[0].sum() == 400 and masks[0, 10:30, 10:30].all()
    with pytest.raises(ValueError, match="outside 0..65535"):
        part_masks(labels.astype(np.int32) * 1000, SAME, 1)


@pytest.mark.parametrize("form", ["polygons", "compressed", "counts"])
def test_coco_masks(form: str) -> None:
    expected = np.zeros((10, 12), dtype=np.uint8)
    expected[2:6, 3:9] = 1
    expected[4:8, 1:5] = 1
    compressed = mask_util.encode(np.asfortranarray(expected))
    flat = expected.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, len(flat)]).tolist()
    given = {
        "polygons": [[3, 2, 9, 2, 9, 6, 3, 6], [1, 4, 5, 4, 5, 8, 1, 8]],
        "compressed": compressed,
        "counts": {"size": [10, 12], "counts": counts},
    }[form]
    assert (decode_mask(given, 10, 12) == expected).all()


def test_annotations() -> None:
    annotations = [
        {"category_id": 3, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "iscrowd": 0},
        {"category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]], "iscrowd": 1},
        {"category_id": 2, "bbox": [2, 3, 4, 5]},
        {"category_id": 2, "bbox": [-3, 8, 5, 50]},
    ]
    masks, classes = instance_masks(annotations, 10, 12, SAME)
    assert classes.tolist() == [3, 2, 2]
    assert masks[0].sum() == 16 and masks[1, 3:8, 2:6].all() and masks[1].sum() == 20
    assert masks[2, 8:, :2].all() and masks[2].sum() == 4
    masks, classes = instance_masks([], 10, 12, T.ResizeTransform(10, 12, 20, 24))
    assert masks.shape == (0, 20, 24) and classes.shape == (0,)


def test_instances_have_tight_boxes_and_no_empty_masks() -> None:
    masks = np.zeros((3, 6, 8), dtype=bool)
    masks[0, 2:4, 1:6] = True
    masks[2, 0, 0] = masks[2, 5, 7] = True
    found = masks_to_instances(masks, np.array([5, 6, 7]))
    assert found.image_size == (6, 8)
    assert found.gt_classes.tolist() == [5, 7]
    assert found.gt_boxes.tensor.tolist() == [[1, 2, 6, 4], [0, 0, 8, 6]]
    assert (found.gt_masks.tensor.numpy() == masks[[0, 2]]).all()
    nothing = masks_to_instances(masks[:0], np.zeros(0, dtype=np.int64))
    assert len(nothing) == 0 and nothing.gt_boxes.tensor.shape == (0, 4)


def test_unreadable_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gone.png: there is no such label map"):
        read_label_map(str(tmp_path / "gone.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (50, 50), "uint8")).save(
        tmp_path / "cut.png"
    )
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:200])
    with pytest.raises(ValueError, match="cut.png: the label map is damaged or cut short"):
        read_label_map(str(tmp_path / "cut.png"))


def test_sixteen_bit_labels(tmp_path: Path) -> None:
    labels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    Image.fromarray(labels).save(tmp_path / "a.png")
    assert (read_label_map(str(tmp_path / "a.png")) == labels).all()
