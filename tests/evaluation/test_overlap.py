from __future__ import annotations

import math

import numpy as np
import pytest

from hipie.evaluation.overlap import iou, overlap, referring_scores


def rectangle(left: int, right: int) -> np.ndarray:
    mask = np.zeros((4, 10), dtype=bool)
    mask[:, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [
        (rectangle(0, 5), rectangle(0, 5), (20, 20)),
        (rectangle(0, 5), rectangle(3, 8), (8, 32)),
        (rectangle(0, 5), rectangle(5, 8), (0, 32)),
        (rectangle(0, 0), rectangle(5, 8), (0, 12)),
        (rectangle(5, 8), rectangle(0, 0), (0, 12)),
        (rectangle(0, 0), rectangle(0, 0), (0, 0)),
    ],
)
def test_overlap(predicted: np.ndarray, target: np.ndarray, expected: tuple[int, int]) -> None:
    assert overlap(predicted, target) == expected


def test_iou_of_nothing_is_zero() -> None:
    assert iou(np.array([0, 3]), np.array([0, 4])).tolist() == [0.0, 0.75]


def test_scores_by_hand() -> None:
    scores = referring_scores([90, 5, 7, 0, 0], [100, 10, 10, 20, 0])
    assert scores["oIoU"] == pytest.approx(100 * 102 / 140)
    assert scores["mIoU"] == pytest.approx(100 * (0.9 + 0.5 + 0.7 + 0 + 0) / 5)
    assert [scores[f"P@{x}"] for x in (0.5, 0.6, 0.7, 0.8, 0.9)] == pytest.approx(
        [60, 40, 40, 20, 20]
    )


def test_without_samples_there_is_no_score() -> None:
    assert all(math.isnan(value) for value in referring_scores([], []).values())


def test_all_empty_is_zero() -> None:
    scores = referring_scores([0], [0])
    assert scores["oIoU"] == 0 and scores["mIoU"] == 0 and scores["P@0.5"] == 0
