"""Mean IoU of parts against hand-computed values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hipie.data.datasets.catalog import register_dataset
from hipie.evaluation import PartEvaluator
from hipie.evaluation.metrics.part_iou import (
    class_ious,
    confusion_matrix,
    group_confusion_matrix,
    mean_iou,
)

NAMES = ["car wheel", "car body", "sky", "dog head"]


def scores_of(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.eye(len(NAMES))[labels]).permute(2, 0, 1)


@pytest.fixture
def record(tmp_path: Path) -> dict:
    truth = np.array([[1, 1, 2, 2, 0], [3, 3, 3, 3, 0]], dtype=np.uint8)
    Image.fromarray(truth).save(tmp_path / "a.png")
    return {
        "file_name": "a.jpg",
        "height": 2,
        "width": 5,
        "image_id": 1,
        "part_seg_file_name": str(tmp_path / "a.png"),
    }


def evaluate(record: dict, predicted: list[list[int]], **metadata) -> dict[str, float]:
    register_dataset("hand_made_parts", lambda: [record], stuff_classes=NAMES, **metadata)
    evaluator = PartEvaluator("hand_made_parts", distributed=False)
    evaluator.process([record], [{"sem_seg": scores_of(np.array(predicted))}])
    return evaluator.evaluate()["parts"]


def test_perfect_prediction_has_full_score(record: dict) -> None:
    scores = evaluate(record, [[0, 0, 1, 1, 3], [2, 2, 2, 2, 0]])
    assert scores["mIoU"] == 100
    assert np.isnan(scores["IoU-dog head"])


def test_scores_of_a_small_map(record: dict) -> None:
    scores = evaluate(
        record,
        [[0, 1, 1, 1, 0], [2, 2, 3, 3, 0]],
        part_wholes={"car wheel": "car", "car body": "car", "dog head": "dog"},
        part_groups=[0, 0, 1, -1],
    )
    assert scores["IoU-car wheel"] == pytest.approx(50)
    assert scores["IoU-car body"] == pytest.approx(200 / 3)
    assert scores["IoU-sky"] == pytest.approx(50)
    assert scores["mIoU"] == pytest.approx((50 + 200 / 3 + 50) / 3)
    assert scores["mIoU_parts"] == pytest.approx((50 + 200 / 3) / 2)
    assert scores["mIoU_grouped"] == pytest.approx((100 + 50) / 2)


def test_prediction_of_another_size_is_refused(record: dict) -> None:
    with pytest.raises(ValueError, match="a.png: the label map has"):
        evaluate(record, [[0, 0]])


def test_maps_without_labels_have_score_nan() -> None:
    counts = confusion_matrix(np.zeros((2, 2), int), np.full((2, 2), -1), 3)
    assert counts.sum() == 0 and np.isnan(mean_iou(class_ious(counts)))


def test_ignored_groups_are_left_out() -> None:
    counts = np.array([[4, 1], [2, 9]])
    assert group_confusion_matrix(counts, [0, -1]).tolist() == [[4, 1], [0, 0]]


def test_parts_outside_their_whole_lower_the_consistency(record: dict) -> None:
    wholes = {"car wheel": "car", "car body": "car", "dog head": "dog"}
    scores = evaluate(record, [[1, 0, 3, 1, 0], [2, 2, 3, 3, 0]], part_wholes=wholes)
    # Six pixels are predicted as a part: three are on the car, no predicted head is on a dog.
    assert scores["inside_whole"] == pytest.approx(100 * 3 / 6)
    nothing = evaluate(record, [[2, 2, 2, 2, 2], [2, 2, 2, 2, 2]], part_wholes=wholes)
    assert np.isnan(nothing["inside_whole"])


def test_background_of_parts_is_where_no_part_has_a_high_score(record: dict) -> None:
    """Truth: wheel, wheel, body, body, -; background (sky) in the second row but the last."""
    register_dataset(
        "hand_made_parts", lambda: [record], stuff_classes=NAMES, background_class="sky"
    )
    scores = torch.zeros(3, 2, 5)
    scores[0, 0, :3] = 0.9  # car wheel, also at one pixel of the body
    scores[1, 0, 3] = 0.6
    scores[2, 1, 0] = 0.7  # dog head on the background
    scores[2, 1, 1:] = 0.3
    evaluator = PartEvaluator("hand_made_parts", distributed=False, background_threshold=0.5)
    evaluator.process([record], [{"sem_seg": scores}])
    results = evaluator.evaluate()["parts"]
    assert results["IoU-car wheel"] == pytest.approx(200 / 3)
    assert results["IoU-car body"] == pytest.approx(50)
    assert results["IoU-sky"] == pytest.approx(75)
    # Above 0.7 the pixel of the head is background, too, but so is the pixel of the body.
    assert results["best_background_threshold"] == pytest.approx(0.325)
