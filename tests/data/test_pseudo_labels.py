"""Masks that are made from boxes, points and scribbles."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from hipie.cli.data import main
from hipie.data.pseudo_labels import pseudo_label
from hipie.data.supervision import WeakLabels

HEIGHT, WIDTH = 60, 80


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


@pytest.fixture
def scene() -> tuple[np.ndarray, list, dict]:
    """Two discs of other colours than what is around them; and their annotations."""
    masks = [disc(22, 28, 14), disc(58, 32, 12)]
    image = np.full((HEIGHT, WIDTH, 3), (40, 90, 200), np.uint8)
    image[masks[0]], image[masks[1]] = (220, 40, 30), (240, 220, 60)
    noise = np.random.default_rng(0).integers(-6, 7, image.shape)
    image = (image.astype(int) + noise).clip(0, 255).astype(np.uint8)
    annotations = []
    for category, mask in enumerate(masks):
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        box = [float(side) for side in mask_util.toBbox(rle)]
        entry = {"category_id": category, "bbox": box, "iscrowd": 0}
        annotations.append({**entry, "segmentation": whole(mask)})
    record = {"annotations": annotations, "image_id": 4, "height": HEIGHT, "width": WIDTH}
    return image, masks, record


def whole(mask: np.ndarray) -> dict:
    """COCO's RLE of a mask."""
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode()}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("kind", ["boxes", "points", "scribbles"])
def test_masks_follow_the_colours(scene, kind):
    """They are nearer to the objects than what is annotated; a box has the IoU pi / 4 = 0.79.

    Scribbles need one on the background as well: nothing else says where an object ends.
    """
    image, masks, record = scene
    if kind == "scribbles":
        background = {"scribbles": [[2, 2, 78, 2, 78, 58, 2, 58, 2, 2], [40, 4, 40, 56]]}
        entry = {"category_id": 2, "bbox": [0, 0, WIDTH, HEIGHT], "iscrowd": 0, **background}
        record = {**record, "annotations": [*record["annotations"], entry]}
        record["annotations"][2]["segmentation"] = whole(~(masks[0] | masks[1]))
    found = pseudo_label(image, record, WeakLabels(kind))
    assert [entry["category_id"] for entry in found][:2] == [0, 1]
    for entry, mask in zip(found, masks, strict=False):
        assert iou(mask_util.decode(entry["segmentation"]).astype(bool), mask) > 0.83
        assert 0.5 < entry["score"] <= 1


def test_confidence_falls_where_labels_disagree(scene):
    """The labels of the points of one object are turned round."""
    image, _, record = scene
    points = [[22, 28], [20, 20], [25, 35], [9, 15], [35, 15]]
    labels = [1, 1, 1, 0, 0]
    right = [
        {**entry, "point_coords": points, "point_labels": labels} for entry in record["annotations"]
    ]
    mixed = [{**entry, "point_labels": [1, 0, 1, 0, 1]} for entry in right]
    scores = [
        pseudo_label(image, {**record, "annotations": entries}, WeakLabels("points"))[0]["score"]
        for entries in (right, mixed)
    ]
    assert scores[1] < scores[0]


@pytest.mark.parametrize("kind", ["boxes", "points", "scribbles"])
def test_masks_of_sam_have_its_confidence(scene, kind):
    predictor = pytest.importorskip("hipie.modeling.sam.predictor", reason="needs segment_anything")
    sam = predictor.Sam.from_source("random:tiny")
    image, _, record = scene
    for entry in pseudo_label(image, record, WeakLabels(kind), sam):
        assert 0 <= entry["score"] <= 1
        assert mask_util.decode(entry["segmentation"]).shape == (HEIGHT, WIDTH)


def test_the_file_of_the_command_is_a_training_set(scene, tmp_path, capsys):
    from hipie.data.datasets.coco_instances import load_coco_instances

    image, _, record = scene
    Image.fromarray(image).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 4, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 3, "name": "cup"}, {"id": 8, "name": "jar"}],
        "annotations": [
            {"id": i, "image_id": 4, "category_id": (3, 8)[i], "bbox": entry["bbox"]}
            for i, entry in enumerate(record["annotations"])
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    command = [
        *("pseudo-label", str(tmp_path / "a.json"), "--images", str(tmp_path)),
        *("--kind", "boxes", "--output", str(tmp_path / "masks.json")),
    ]
    assert main(command) == 0
    assert "masks: 2; mean confidence" in capsys.readouterr().out
    (read,) = load_coco_instances(tmp_path / "masks.json", tmp_path)
    assert [entry["category_id"] for entry in read["annotations"]] == [0, 1]
    assert all("segmentation" in e and 0 < e["score"] <= 1 for e in read["annotations"])
    with pytest.raises(SystemExit, match="exists; name another file"):
        main(command)
    command[-1], command[5] = str(tmp_path / "other.json"), "points"
    with pytest.raises(SystemExit, match='have neither "point_coords" nor'):
        main(command)
