"""Scores and selection of mask proposals, against hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie_fewshot.modeling.mask_selection import (
    MaskScores,
    SelectionSettings,
    score_masks,
    select_masks,
)


def mask_scores(similarity, purity=None, coverage=None):
    ones = [1.0] * len(similarity)
    return MaskScores(*map(torch.tensor, (similarity, purity or ones, coverage or ones)))


def test_scores_of_masks_on_a_small_grid():
    """4 by 4 patches of 10 pixels; the object resembles the two patches at the top left."""
    pytest.importorskip("ot")
    costs = np.full((2, 16), 0.8)
    costs[0, 0] = costs[1, 1] = 0.1
    points = np.array([[5, 5], [15, 5], [35, 35]])
    good, wide = np.zeros((2, 40, 40), bool)
    good[:10, :20] = True
    wide[:20, :20] = True
    result = score_masks([good, wide, np.zeros((40, 40), bool)], points, costs, 4)
    # Two of the four patches of `wide` take half of the weight at a cost of 0.8.
    empty = 1 - (2 * 0.1 + 14 * 0.8) / 16
    assert result.similarity.tolist() == pytest.approx([0.9, 1 - (0.1 + 0.8) / 2, empty], abs=1e-6)
    assert result.purity.tolist() == pytest.approx([2 / 2, 2 / 4, 0], abs=1e-5)
    assert result.coverage.tolist() == pytest.approx([2 / 3, 2 / 3, 0], abs=1e-5)


def test_masks_near_the_best_are_merged():
    settings = SelectionSettings()
    chosen, score = select_masks(mask_scores([0.70, 0.90, 0.88, 0.60]), settings)
    # Distances 0.30, 0.10, 0.12, 0.40; excess over the best 0.50, 0, 0.05, 0.75 of the largest.
    assert chosen == [1, 2]
    assert score == pytest.approx(0.90)


def test_best_mask_is_selected_above_the_distance_threshold():
    chosen, score = select_masks(mask_scores([0.30, 0.20]), SelectionSettings())
    assert chosen == [0]
    assert score == pytest.approx(0.30)


def test_number_of_merged_masks_is_limited():
    chosen, _ = select_masks(mask_scores([0.900, 0.901, 0.902, 0.903]), SelectionSettings(merged=2))
    assert chosen == [3, 2]


def test_impure_masks_are_dropped_unless_all_are_impure():
    chosen, _ = select_masks(mask_scores([0.9, 0.8], [0.01, 0.5]), SelectionSettings())
    assert chosen == [1]
    chosen, _ = select_masks(mask_scores([0.9, 0.8], [0.010, 0.005]), SelectionSettings())
    assert chosen == [0]


def test_score_combines_all_three_terms():
    settings = SelectionSettings(score=(0.8, 0.2, 2.0))
    _, score = select_masks(mask_scores([0.5], [0.6], [0.7]), settings)
    assert score == pytest.approx(0.8 * 0.5 + 0.2 * 0.6 * 0.7**2)
