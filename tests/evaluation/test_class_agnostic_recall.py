"""Class-agnostic recall and naming accuracy of unseen classes."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Instances

from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import ClassAgnosticRecall, wilson_interval

SIZE = (10, 40)


def columns(left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[:, left:right] = 1
    return mask


def annotation(left: int, right: int, category: int) -> dict:
    rle = mask_util.encode(np.asfortranarray(columns(left, right)))
    return {"segmentation": rle, "category_id": category}


def output(*rows: tuple[int, int, int, float]) -> dict:
    instances = Instances(SIZE)
    masks = np.array([columns(a, b) for a, b, _, _ in rows], dtype=bool).reshape(-1, *SIZE)
    instances.pred_masks = torch.from_numpy(masks)
    instances.pred_classes = torch.tensor([c for _, _, c, _ in rows], dtype=torch.int64)
    instances.scores = torch.tensor([s for _, _, _, s in rows])
    return {"instances": instances}


def evaluate(annotations: list[dict], outputs: dict) -> dict[str, float]:
    record = {"file_name": "a", "height": 10, "width": 40, "image_id": 1}
    record["annotations"] = annotations
    names = ["dog", "cat", "horse", "bus"]
    register_dataset(
        "hand_made_unseen", lambda: [record], thing_classes=names, unseen_classes=["horse", "bus"]
    )
    evaluator = ClassAgnosticRecall("hand_made_unseen", distributed=False)
    evaluator.process([record], [outputs])
    return evaluator.evaluate()["unseen"]


def test_recall_and_naming() -> None:
    truth = [annotation(0, 10, 0), annotation(10, 20, 2), annotation(20, 40, 3)]
    scores = evaluate(truth, output((10, 20, 2, 0.9), (20, 40, 0, 0.8), (20, 39, 3, 0.3)))
    assert scores["AR@100"] == pytest.approx(100)
    assert scores["objects"] == 2 and scores["matched"] == 2
    assert scores["naming"] == pytest.approx(50)
    assert scores["chance"] == pytest.approx(25)
    assert scores["naming_low"] < 50 < scores["naming_high"]


def test_recall_is_averaged_over_thresholds() -> None:
    scores = evaluate([annotation(0, 20, 2)], output((0, 15, 1, 0.5)))
    assert scores["AR@100"] == pytest.approx(100 * 6 / 10)
    assert scores["matched"] == 1 and scores["naming"] == 0


def test_scores_without_detections() -> None:
    scores = evaluate([annotation(0, 20, 2)], output())
    assert scores["AR@100"] == 0 and scores["matched"] == 0 and np.isnan(scores["naming"])
    assert scores["naming_low"] == 0 and scores["naming_high"] == 100


def test_scores_without_objects() -> None:
    scores = evaluate([annotation(0, 20, 0)], output((0, 20, 2, 1.0)))
    assert np.isnan(scores["AR@100"]) and scores["objects"] == 0


def test_only_the_best_hundred_detections_count() -> None:
    rows = [(0, 5, 0, 0.9)] * 100 + [(20, 40, 2, 0.1)]
    assert evaluate([annotation(20, 40, 2)], output(*rows))["AR@100"] == 0
    assert evaluate([annotation(20, 40, 2)], output(*rows[1:]))["AR@100"] == 100


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [
        (0, 0, 0.0, 1.0),
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval(hits: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(hits, trials) == pytest.approx((low, high), abs=1e-4)
