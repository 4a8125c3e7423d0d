"""The four terms, at the values that the authors' functions gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refersam.modeling.criterion import LOSS_NAMES, MaskCriterion, cross_entropy, dice


def test_published_values():
    logits = torch.from_numpy(2 * np.random.default_rng(0).standard_normal((2, 12544))).float()
    labels = torch.from_numpy(np.random.default_rng(1).random((2, 12544))).float()
    assert float(cross_entropy(logits, labels)) == pytest.approx(1.066460, abs=1e-6)
    assert float(dice(logits, labels).mean()) == pytest.approx(0.500438, abs=1e-6)


def test_an_empty_target_has_a_defined_loss():
    assert float(dice(torch.full((1, 100), -50.0), torch.zeros(1, 100)).mean()) == pytest.approx(0)
    found = float(dice(torch.full((1, 100), 50.0), torch.zeros(1, 100)).mean())
    assert found == pytest.approx(1 - 1 / 101)


def test_soft_labels_and_uncertain_points():
    """A mask that is right everywhere but sure of nothing, and one that is sure and right."""
    target = torch.zeros(1, 64, 64)
    target[:, 20:40, 20:40] = 1
    sure = (target - 0.5) * 40
    coarse = torch.nn.functional.avg_pool2d(sure[:, None], 4)
    right = MaskCriterion(2000)(sure, coarse, target)
    unsure = MaskCriterion(2000)(sure * 0, coarse * 0, target)
    wrong = MaskCriterion(2000)(-sure, -coarse, target)
    assert set(right) == set(LOSS_NAMES)
    for name in LOSS_NAMES:
        assert float(right[name]) < float(unsure[name]) < float(wrong[name])
    assert float(unsure["loss_mask"]) == pytest.approx(np.log(2), rel=1e-5)


def test_weights_are_of_the_terms_in_order():
    logits, coarse = torch.randn(1, 32, 32), torch.randn(1, 1, 8, 8)
    target = torch.ones(1, 32, 32)
    found = []
    for weights in ((1, 1, 1, 1), (2, 3, 0, 5)):
        torch.manual_seed(0)
        found.append(MaskCriterion(50, weights)(logits, coarse, target))
    for name, factor in zip(LOSS_NAMES, (2, 3, 0, 5)):
        torch.testing.assert_close(found[1][name], factor * found[0][name])


def test_in_bfloat16_losses_are_taken_in_float32():
    logits, coarse = torch.randn(1, 32, 32).bfloat16(), torch.randn(1, 1, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = MaskCriterion(50)(logits, coarse, torch.ones(1, 32, 32))
    assert all(term.dtype == torch.float32 for term in found.values())


@pytest.mark.parametrize(("points", "weights"), [(50, (1, 1)), (2, (1, 1, 1, 1))])
def test_bad_settings(points, weights):
    with pytest.raises(ValueError, match="MODEL.REFERSAM.LOSS"):
        MaskCriterion(points, weights)
