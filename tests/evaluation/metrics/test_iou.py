from __future__ import annotations

import math

import numpy as np
import pytest

from hipie.evaluation.metrics.iou import Overlap, overlap, referring_scores


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
    assert overlap(predicted, target) == (*expected, predicted.sum())


def test_iou_of_nothing_is_zero() -> None:
    assert Overlap(0, 0, 0).iou == 0 and Overlap(3, 4, 3).iou == 0.75


PAIRS = [(90, 100), (5, 10), (7, 10), (0, 20), (0, 0)]


def test_scores_by_hand() -> None:
    scores = referring_scores([Overlap(*pair, 0) for pair in PAIRS])
    assert scores["oIoU"] == pytest.approx(100 * 102 / 140)
    assert scores["mIoU"] == pytest.approx(100 * (0.9 + 0.5 + 0.7 + 0 + 0) / 5)
    assert [scores[f"P@{x}"] for x in (0.5, 0.6, 0.7, 0.8, 0.9)] == pytest.approx(
        [60, 40, 40, 20, 20]
    )


def test_without_samples_there_is_no_score() -> None:
    assert all(math.isnan(value) for value in referring_scores([]).values())


def test_all_empty_is_zero() -> None:
    scores = referring_scores([Overlap(0, 0, 0)])
    assert scores["oIoU"] == 0 and scores["mIoU"] == 0 and scores["P@0.5"] == 0


def test_the_order_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    each = [Overlap(int(i), int(u), 0) for i, u in rng.integers(1, 10**6, (500, 2)).cumsum(1)]
    wanted = referring_scores(each)
    for _ in range(20):
        assert referring_scores([each[k] for k in rng.permutation(500)]) == wanted
