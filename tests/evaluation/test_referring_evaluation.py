"""Referring scores against hand-computed values."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances

from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import GeneralizedReferringEvaluator, ReferringEvaluator

SIZE = (4, 10)


def columns(left: int, right: int) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=np.uint8)
    mask[:, left:right] = 1
    return mask


def annotation(left: int, right: int) -> dict:
    return {"segmentation": mask_util.encode(np.asfortranarray(columns(left, right)))}


def prediction(*masks: np.ndarray) -> Instances:
    instances = Instances(SIZE)
    instances.pred_masks = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *SIZE))
    return instances


@pytest.fixture
def records() -> list[dict]:
    """Register two images with expressions for one object, for two, and for none."""
    records = [
        {
            "file_name": "a.jpg",
            "height": 4,
            "width": 10,
            "image_id": 1,
            "annotations": [annotation(0, 4), annotation(5, 9)],
            "expressions": [
                {"expression": "left", "targets": [0], "kind": "class", "held_out": ""},
                {"expression": "both", "targets": [0, 1], "kind": "class", "held_out": "pair"},
                {"expression": "nothing", "targets": [], "kind": "none"},
            ],
        },
        {
            "file_name": "b.jpg",
            "height": 4,
            "width": 10,
            "image_id": 2,
            "annotations": [annotation(2, 6)],
            "expressions": [
                {"expression": "it", "targets": [0]},
                {"expression": "no", "targets": []},
            ],
        },
    ]
    register_dataset("hand_made_expressions", lambda: records)
    return records


OUTPUTS = [
    {
        "referring": [
            prediction(columns(0, 3)),
            prediction(columns(0, 4)),
            prediction(columns(0, 1)),
        ]
    },
    {"referring": [prediction(columns(2, 6)), prediction()]},
]


def test_referring_scores(records: list[dict]) -> None:
    evaluator = ReferringEvaluator("hand_made_expressions", distributed=False)
    for record, output in zip(records, OUTPUTS, strict=True):
        evaluator.process([record], [output])
    scores = evaluator.evaluate()["refer"]
    assert scores["oIoU"] == pytest.approx(100 * (12 + 16 + 0 + 16 + 0) / (16 + 32 + 4 + 16 + 0))
    assert scores["mIoU"] == pytest.approx(100 * (0.75 + 0.5 + 0 + 1 + 0) / 5)
    assert scores["P@0.5"] == pytest.approx(60) and scores["P@0.8"] == pytest.approx(20)
    assert scores["oIoU-class"] == pytest.approx(100 * 28 / 48)
    assert scores["oIoU-unseen_pair"] == pytest.approx(50)
    assert scores["oIoU-seen"] == pytest.approx(75)
    assert scores["expressions"] == 5


def test_box_precision() -> None:
    """Exact, too narrow (6 of 8 cells), two columns off (4 of 12), too high (8 of 16), none."""
    boxed = {**annotation(1, 5), "bbox": [1, 1, 4, 2]}
    record = {
        "file_name": "a.jpg",
        "height": 4,
        "width": 10,
        "image_id": 1,
        "annotations": [boxed],
        "expressions": [{"expression": text, "targets": [0]} for text in "abcde"],
    }
    register_dataset("hand_made_boxes", lambda: [record])
    predictions = []
    for box in ([1, 1, 5, 3], [2, 1, 5, 3], [3, 1, 7, 3], [1, 0, 5, 4]):
        predictions.append(prediction(columns(1, 5)))
        predictions[-1].pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
    predictions.append(prediction())
    predictions[-1].pred_boxes = Boxes(torch.zeros(0, 4))
    evaluator = ReferringEvaluator("hand_made_boxes", distributed=False)
    evaluator.process([record], [{"referring": predictions}])
    scores = evaluator.evaluate()["refer"]
    result = [scores[f"box-P@{x}"] for x in (0.5, 0.7, 0.8, 0.9)]
    assert result == pytest.approx([60, 40, 20, 20])


def test_held_out_expressions_are_reported_separately(records: list[dict]) -> None:
    for expression, held_out in zip(records[0]["expressions"], ("class", "pair", ""), strict=True):
        expression["held_out"] = held_out
    evaluator = ReferringEvaluator("hand_made_expressions", distributed=False)
    evaluator.process([records[0]], [OUTPUTS[0]])
    scores = evaluator.evaluate()["refer"]
    assert scores["oIoU-unseen_class"] == pytest.approx(75)
    assert scores["oIoU-unseen_pair"] == pytest.approx(50)
    assert scores["oIoU-seen"] == 0


def test_empty_prediction_has_iou_zero(records: list[dict]) -> None:
    evaluator = ReferringEvaluator("hand_made_expressions", distributed=False, result_name="mine")
    evaluator.process([records[1]], [{"referring": [prediction(), prediction()]}])
    scores = evaluator.evaluate()["mine"]
    assert scores["oIoU"] == 0 and scores["mIoU"] == 0


def test_several_masks_are_united(records: list[dict]) -> None:
    evaluator = ReferringEvaluator("hand_made_expressions", distributed=False)
    both = prediction(columns(2, 4), columns(4, 6))
    evaluator.process([records[1]], [{"referring": [both, prediction()]}])
    assert evaluator.evaluate()["refer"]["mIoU"] == pytest.approx(50)


def test_reset_discards_the_counts(records: list[dict]) -> None:
    evaluator = ReferringEvaluator("hand_made_expressions", distributed=False)
    evaluator.process([records[0]], [OUTPUTS[0]])
    evaluator.reset()
    evaluator.process([records[1]], [OUTPUTS[1]])
    assert evaluator.evaluate()["refer"]["expressions"] == 2


@pytest.mark.parametrize("evaluator_class", [ReferringEvaluator, GeneralizedReferringEvaluator])
def test_missing_predictions_are_refused(records: list[dict], evaluator_class: type) -> None:
    evaluator = evaluator_class("hand_made_expressions", distributed=False)
    with pytest.raises(ValueError, match="a.jpg: 3 expressions, but 1 predictions"):
        evaluator.process([records[0]], [{"referring": [prediction()]}])


def test_predictions_of_another_size_are_refused(records: list[dict]) -> None:
    evaluator = ReferringEvaluator("hand_made_expressions", distributed=False)
    small = Instances((2, 2))
    small.pred_masks = torch.ones(1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="pixels for an image of"):
        evaluator.process([records[1]], [{"referring": [small, small]}])


def test_generalized_scores(records: list[dict]) -> None:
    evaluator = GeneralizedReferringEvaluator("hand_made_expressions", distributed=False)
    for record, output in zip(records, OUTPUTS, strict=True):
        evaluator.process([record], [output])
    scores = evaluator.evaluate()["grefer"]
    assert scores["gIoU"] == pytest.approx(100 * (0.75 + 0.5 + 0 + 1 + 1) / 5)
    assert scores["cIoU"] == pytest.approx(100 * 44 / 68)
    assert scores["N-acc"] == pytest.approx(50)
    assert scores["T-acc"] == pytest.approx(100)
    assert scores["Pr@0.7"] == pytest.approx(200 / 3)
    assert scores["Pr@0.9"] == pytest.approx(100 / 3)


def test_generalized_scores_of_misses(records: list[dict]) -> None:
    evaluator = GeneralizedReferringEvaluator("hand_made_expressions", distributed=False)
    evaluator.process([records[1]], [{"referring": [prediction(), prediction(columns(0, 1))]}])
    scores = evaluator.evaluate()["grefer"]
    assert scores["gIoU"] == 0 and scores["T-acc"] == 0 and scores["N-acc"] == 0


def test_generalized_scores_without_expressions_are_nan() -> None:
    register_dataset("hand_made_nothing", list)
    evaluator = GeneralizedReferringEvaluator("hand_made_nothing", distributed=False)
    assert np.isnan(evaluator.evaluate()["grefer"]["gIoU"])
