"""AP by faster-coco-eval against pycocotools."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from hipie.config import add_hipie_config
from hipie.data.datasets import register_coco
from hipie.evaluation import build_evaluator

NAME, SIZE, IMAGES, CLASSES = "random_objects", (80, 100), 12, 4


def rectangles(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw boxes [count, 4] of all of COCO's size ranges."""
    height, width = SIZE
    left, top = rng.integers(0, width - 20, count), rng.integers(0, height - 20, count)
    right = np.minimum(left + rng.integers(4, 90, count), width)
    bottom = np.minimum(top + rng.integers(4, 70, count), height)
    return np.stack([left, top, right, bottom], axis=1).astype(float)


@pytest.fixture
def objects(tmp_path: Path) -> list[np.ndarray]:
    """Register a data set of rectangles; the rectangles of every image."""
    rng = np.random.default_rng(3)
    images, annotations, truth = [], [], []
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        images.append({"id": number, "file_name": f"{number}.jpg", "height": 80, "width": 100})
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / f"{number}.jpg")
        boxes = rectangles(rng, int(rng.integers(1, 9)))
        truth.append(np.column_stack([boxes, rng.integers(0, CLASSES, len(boxes))]))
        for x0, y0, x1, y1, label in truth[-1].tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 10 + int(label),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )
    categories = [{"id": 10 + i, "name": f"class {i}"} for i in range(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco(NAME, tmp_path / "a.json", tmp_path / "images")
    return truth


def perturb(truth: np.ndarray, rng: np.random.Generator) -> dict:
    """Make a prediction: the truth moved, with wrong classes and additional objects."""
    boxes = np.concatenate(
        [truth[:, :4] + rng.integers(-4, 5, (len(truth), 4)), rectangles(rng, 5)]
    )
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    labels = np.concatenate([truth[:, 4], rng.integers(0, CLASSES, 5)]).astype(int)
    labels = np.where(rng.random(len(labels)) < 0.2, rng.integers(0, CLASSES, len(labels)), labels)
    instances = Instances(SIZE)
    instances.pred_boxes = Boxes(torch.from_numpy(boxes).float())
    instances.pred_boxes.clip(SIZE)
    instances.pred_classes = torch.from_numpy(labels)
    instances.scores = torch.from_numpy(rng.random(len(labels)).round(1)).float()
    rows, columns = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
    x0, y0, x1, y1 = instances.pred_boxes.tensor.round().T[..., None, None]
    instances.pred_masks = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
    return {"instances": instances}


def evaluate(objects: list[np.ndarray], faster: bool) -> dict:
    cfg = get_cfg()
    add_hipie_config(cfg)
    assert cfg.TEST.FASTER_COCO_EVAL is False
    cfg.TEST.FASTER_COCO_EVAL = faster
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    rng = np.random.default_rng(4)
    for record, truth in zip(DatasetCatalog.get(NAME), objects, strict=True):
        evaluator.process([record], [perturb(truth, rng)])
    return evaluator.evaluate()


def test_equal_to_pycocotools(objects: list[np.ndarray]) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    reference, faster = (evaluate(objects, choice) for choice in (False, True))
    assert set(reference) == set(faster) == {"bbox", "segm"}
    for task, scores in reference.items():
        assert faster[task] == pytest.approx(scores, abs=1e-6, nan_ok=True)
        assert 5 < scores["AP"] < 95 and len(scores) == 6 + 2 * CLASSES


def test_faster_coco_eval_is_used_if_enabled(
    objects: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    used = []

    class Recorded(package.COCOeval_faster):
        def evaluate(self) -> None:
            used.append(self.params.iouType)
            super().evaluate()

    monkeypatch.setattr(package, "COCOeval_faster", Recorded)
    evaluate(objects, False)
    assert used == []
    evaluate(objects, True)
    assert used == ["bbox", "segm"]


def test_missing_package_is_named(objects: list[np.ndarray], monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert evaluate(objects, False)["bbox"]["AP"] > 0
    with pytest.raises(ValueError, match=r"^TEST.FASTER_COCO_EVAL needs the package faster-coco"):
        evaluate(objects, True)
