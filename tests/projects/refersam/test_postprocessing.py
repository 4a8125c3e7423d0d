"""Conversion of mask logits to instances."""

from __future__ import annotations

import pytest
import torch

from refersam.postprocessing import referring_inference


def square(side: int, size: int = 96) -> torch.Tensor:
    logits = torch.full((size, size), -3.0)
    logits[:side, :side] = 2.0
    return logits


def test_mask_box_and_score():
    instances = referring_inference(square(24), (96, 96))
    assert instances.pred_masks.sum() == 24 * 24
    assert instances.pred_boxes.tensor.tolist() == [[0, 0, 24, 24]]
    assert float(instances.scores[0]) == pytest.approx(float(torch.tensor(2.0).sigmoid()))
    assert instances.pred_classes.tolist() == [0]


def test_zero_logit_is_foreground():
    assert len(referring_inference(torch.zeros(32, 32), (32, 32))) == 1


def test_masks_have_the_output_size():
    instances = referring_inference(square(48), (200, 300))
    assert instances.pred_masks.shape == (1, 200, 300)
    assert float(instances.pred_masks.float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("side", "count"), [(1, False), (2, True), (24, True)])
def test_small_masks_are_cleared(side, count):
    """One pixel of 96x96 counts as 25 pixels of 480x480."""
    assert len(referring_inference(square(side), (96, 96), no_target_pixels=50)) == count
    assert len(referring_inference(square(side), (96, 96))) == 1


def test_empty_mask_gives_no_instance():
    instances = referring_inference(torch.full((32, 32), -1.0), (40, 50))
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 40, 50)
    assert instances.scores.shape == (0,)
