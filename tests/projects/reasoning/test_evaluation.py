"""gIoU, cIoU and N-acc against pixel counts of the published kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie_reasoning.evaluation import ReasoningCounts


def counts_by_histograms(prediction: np.ndarray, target: np.ndarray) -> tuple:
    """Intersection and union of the classes 0 and 1, ignored pixels (255) left out, in torch."""
    output, target = torch.tensor(prediction, dtype=torch.float), torch.tensor(target).float()
    output[target == 255] = 255
    both = output[output == target]
    histogram = [torch.histc(each, bins=2, min=0, max=1) for each in (both, output, target)]
    return histogram[0], histogram[1] + histogram[2] - histogram[0]


def random_cases() -> list:
    rng = np.random.default_rng(1)
    cases = []
    for n in range(12):
        target = (rng.random((9, 11)) < 0.4).astype(int)
        prediction = (rng.random((9, 11)) < 0.4).astype(int)
        target[rng.random((9, 11)) < 0.2] = 255
        if n in (3, 4):
            target[target == 1] = 0
        if n in (4, 5):
            prediction[:] = 0
        cases.append((prediction, target))
    return cases


def test_scores_are_those_of_histograms() -> None:
    counts = ReasoningCounts()
    intersections, unions, ious = torch.zeros(2), torch.zeros(2), []
    for prediction, target in random_cases():
        counts.add(prediction == 1, target == 1, target == 255)
        intersection, union = counts_by_histograms(prediction, target)
        iou = intersection / (union + 1e-5)
        iou[union == 0] += 1
        intersections, unions = intersections + intersection, unions + union
        ious.append(float(iou[1]))
    scores = counts.scores()
    assert scores["gIoU"] == pytest.approx(100 * np.mean(ious), abs=1e-4)
    assert scores["cIoU"] == pytest.approx(100 * float(intersections[1] / unions[1]), abs=1e-4)


def test_rejection_is_counted_by_empty_masks() -> None:
    counts = ReasoningCounts()
    full, empty = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    for prediction, target in ((full, empty), (empty, empty), (empty, empty), (full, full)):
        counts.add(prediction, target)
    scores = counts.scores()
    assert scores["N-acc"] == pytest.approx(200 / 3)
    assert scores["T-acc"] == 100
    assert scores["gIoU"] == pytest.approx(75, abs=1e-3)
    assert scores["gIoU-target"] == pytest.approx(100, abs=1e-3)


def test_a_mask_inside_ignored_pixels_is_not_a_rejection() -> None:
    counts = ReasoningCounts()
    full, empty = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    counts.add(full, empty, ignore=full)
    assert counts.scores()["N-acc"] == 0
    assert counts.scores()["gIoU"] == 100


def test_sums_of_processes_are_exact() -> None:
    cases = random_cases()
    whole, parts = ReasoningCounts(), [ReasoningCounts(), ReasoningCounts()]
    for n, (prediction, target) in enumerate(cases):
        for counts in (whole, parts[n % 2]):
            counts.add(prediction == 1, target == 1, target == 255)
    total = [sum(pair) for pair in zip(*(each.integers() for each in parts))]
    assert ReasoningCounts(total).scores() == whole.scores()
