"""mIoU and FB-IoU against hand-computed values and sums over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hipie_fewshot.metrics import EpisodeCounts, count_pixels, few_shot_scores


def test_pixel_counts_of_one_episode():
    mask, target = np.zeros((2, 10, 10), bool)
    mask[:, :6] = True
    target[:, 4:] = True
    assert count_pixels(3, mask, target) == EpisodeCounts(3, 20, 100, 0, 80)


def test_pixels_are_summed_per_class_and_ious_averaged():
    episodes = [
        EpisodeCounts(1, 10, 20, 70, 80),
        EpisodeCounts(1, 30, 40, 40, 50),
        EpisodeCounts(5, 0, 10, 80, 90),
    ]
    scores = few_shot_scores(episodes)
    assert scores["mIoU"] == pytest.approx(100 * ((40 / 60) + 0) / 2)
    assert scores["FB-IoU"] == pytest.approx(100 * (40 / 70 + 190 / 220) / 2)
    assert scores["IoU/episode"] == pytest.approx(100 * (0.5 + 0.75 + 0) / 3)
    assert scores["classes"] == 2
    assert scores["episodes"] == 3


def test_random_masks_against_sums_over_pixels():
    rng = np.random.default_rng(0)
    masks, targets = rng.random((2, 12, 15, 20)) > 0.6
    classes = rng.integers(0, 4, 12)
    scores = few_shot_scores(count_pixels(int(c), m, t) for c, m, t in zip(classes, masks, targets))
    own = []
    for number in np.unique(classes):
        m, t = masks[classes == number], targets[classes == number]
        own.append((m & t).sum() / (m | t).sum())
    sides = [(masks & targets).sum() / (masks | targets).sum()]
    sides.append((~masks & ~targets).sum() / (~masks | ~targets).sum())
    assert scores["mIoU"] == pytest.approx(100 * np.mean(own))
    assert scores["FB-IoU"] == pytest.approx(100 * np.mean(sides))


def test_correct_empty_mask_has_iou_one():
    empty = np.zeros((4, 4), bool)
    assert few_shot_scores([count_pixels(0, empty, empty)])["mIoU"] == 100


def test_no_episodes_give_nan():
    scores = few_shot_scores([])
    assert scores["episodes"] == 0
    assert math.isnan(scores["mIoU"])
    assert math.isnan(scores["FB-IoU"])
