"""Measures and selection by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie_fewshot.modeling.mask_selection import Measures, SelectionSettings, measure, select


def measures(likeness, purity=None, coverage=None):
    given = (likeness, purity or [1.0] * len(likeness), coverage or [1.0] * len(likeness))
    return Measures(*(torch.tensor(one) for one in given))


def test_measures_of_a_square_counted_by_hand():
    """A grid of 4 by 4 patches of 10 pixels; the object is like the two patches on top left."""
    pytest.importorskip("ot")
    costs = np.full((2, 16), 0.8)
    costs[0, 0] = costs[1, 1] = 0.1
    points = np.array([[5, 5], [15, 5], [35, 35]])
    good, wide = np.zeros((2, 40, 40), bool)
    good[:10, :20] = True
    wide[:20, :20] = True
    found = measure([good, wide, np.zeros((40, 40), bool)], points, costs, 4)
    # Of four patches the two others take half of the weight, at 0.8.
    empty = 1 - (2 * 0.1 + 14 * 0.8) / 16
    assert found.likeness.tolist() == pytest.approx([0.9, 1 - (0.1 + 0.8) / 2, empty], abs=1e-6)
    assert found.purity.tolist() == pytest.approx([2 / 2, 2 / 4, 0], abs=1e-5)
    assert found.coverage.tolist() == pytest.approx([2 / 3, 2 / 3, 0], abs=1e-5)


def test_masks_near_the_best_join_and_others_do_not():
    settings = SelectionSettings()
    chosen, score = select(measures([0.70, 0.90, 0.88, 0.60]), settings)
    # Distances 0.30, 0.10, 0.12, 0.40; beyond the best by 0.50, 0, 0.05, 0.75 of the largest.
    assert chosen == [1, 2]
    assert score == pytest.approx(0.90)


def test_the_best_stays_even_if_it_is_far():
    chosen, score = select(measures([0.30, 0.20]), SelectionSettings())
    assert chosen == [0]
    assert score == pytest.approx(0.30)


def test_at_most_so_many_join():
    chosen, _ = select(measures([0.900, 0.901, 0.902, 0.903]), SelectionSettings(merged=2))
    assert chosen == [3, 2]


def test_impure_masks_are_dropped_unless_all_are():
    chosen, _ = select(measures([0.9, 0.8], [0.01, 0.5]), SelectionSettings())
    assert chosen == [1]
    chosen, _ = select(measures([0.9, 0.8], [0.010, 0.005]), SelectionSettings())
    assert chosen == [0]


def test_the_score_weighs_all_three():
    settings = SelectionSettings(score=(0.8, 0.2, 2.0))
    _, score = select(measures([0.5], [0.6], [0.7]), settings)
    assert score == pytest.approx(0.8 * 0.5 + 0.2 * 0.6 * 0.7**2)
