"""AP on annotation files with faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from hipie.data.datasets import register_coco
from hipie.evaluation.coco_evaluation import FilteredCOCOEvaluator

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


def write(folder: Path, annotations: list[dict]) -> None:
    (folder / "images").mkdir()
    Image.new("RGB", (60, 50)).save(folder / "images" / "a.jpg")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 50, "width": 60}],
        "categories": [{"id": 4, "name": "cup"}, {"id": 9, "name": "jug"}],
        "annotations": [{"id": i, "image_id": 7, **a} for i, a in enumerate(annotations)],
    }
    (folder / "a.json").write_text(json.dumps(content))
    register_coco("faulty", folder / "a.json", folder / "images")


def output() -> dict:
    instances = Instances((50, 60))
    masks = torch.zeros(1, 50, 60, dtype=torch.bool)
    masks[0, 10:30, 10:30] = True
    instances.pred_masks = masks
    instances.pred_boxes = Boxes(torch.tensor([[10.0, 10, 30, 30]]))
    instances.scores, instances.pred_classes = torch.ones(1), torch.tensor([1])
    return {"instances": instances}


def evaluate(folder: Path | None) -> dict:
    evaluator = FilteredCOCOEvaluator("faulty", folder and str(folder))
    evaluator.reset()
    evaluator.process(DatasetCatalog.get("faulty"), [output()])
    return evaluator.evaluate()


def test_faulty_annotations_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"category_id": 9, "segmentation": SQUARE, "bbox": [10, 10, 20, 20]},
            {"category_id": 9, "segmentation": [], "bbox": [0, 0, 5, 5]},
            {"category_id": 4, "segmentation": [[1, 1, 2, 2]], "bbox": [0, 0, 5, 5]},
            {"category_id": 4, "segmentation": SQUARE, "bbox": [100, 100, 5, 5]},
        ],
    )
    results = evaluate(tmp_path / "out")
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)
    assert results["segm"]["AP-jug"] == pytest.approx(100)


def test_boxes_without_masks(tmp_path: Path) -> None:
    write(tmp_path, [{"category_id": 9, "bbox": [10, 10, 20, 20]}])
    results = evaluate(None)
    assert set(results) == {"bbox"} and results["bbox"]["AP"] == pytest.approx(100)


def test_missed_object_lowers_the_ap(tmp_path: Path) -> None:
    other = [[40, 10, 55, 10, 55, 30, 40, 30]]
    write(
        tmp_path,
        [
            {"category_id": 9, "segmentation": SQUARE},
            {"category_id": 9, "segmentation": other},
        ],
    )
    assert evaluate(None)["segm"]["AP"] == pytest.approx(50, abs=1.5)
