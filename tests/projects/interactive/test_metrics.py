"""NoC, failures and mIoU@k against hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hipie_interactive.metrics import interactive_scores, number_of_clicks


def test_scores_of_three_objects():
    ious = [
        [0.50, 0.86, 0.91, 0.95],  # 2 clicks to 85, 3 to 90
        [0.85, 0.80, 0.90, 0.20],  # reaches 85 at once, exactly; 90 at the third
        [0.10, 0.20, 0.30, 0.84],  # never
    ]
    scores = interactive_scores(ious, 4)
    assert scores["NoC@85"] == pytest.approx((2 + 1 + 4) / 3)
    assert scores["NoC@90"] == pytest.approx((3 + 3 + 4) / 3)
    assert scores["failed@85"] == scores["failed@90"] == pytest.approx(100 / 3)
    assert scores["mIoU@1"] == pytest.approx(100 * (0.5 + 0.85 + 0.1) / 3)
    assert scores["mIoU@4"] == pytest.approx(100 * (0.95 + 0.2 + 0.84) / 3)
    assert "mIoU@5" not in scores
    assert scores["objects"] == 3


def test_reaching_the_level_with_the_last_click_is_no_failure():
    scores = interactive_scores([[0.0] * 19 + [0.9]], 20)
    assert scores["NoC@90"] == 20
    assert scores["failed@90"] == 0
    assert interactive_scores([[0.0] * 20], 20)["failed@90"] == 100


def test_number_of_clicks_equals_a_loop():
    table = np.random.default_rng(0).random((50, 20))
    for level in (0.85, 0.9, 0.999):
        expected = [next((k + 1 for k in range(20) if row[k] >= level), 20) for row in table]
        assert number_of_clicks(table, level).tolist() == expected


def test_no_objects_give_nan():
    scores = interactive_scores([], 20)
    assert scores["objects"] == 0
    assert math.isnan(scores["NoC@85"])
    assert math.isnan(scores["mIoU@20"])
