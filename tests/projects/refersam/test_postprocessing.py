"""From logits to masks, and when a mask says that nothing is meant."""

from __future__ import annotations

import pytest
import torch

from refersam.postprocessing import referring_inference


def square(side: int, size: int = 96) -> torch.Tensor:
    logits = torch.full((size, size), -3.0)
    logits[:side, :side] = 2.0
    return logits


def test_a_mask_its_box_and_its_score():
    found = referring_inference(square(24), (96, 96))
    assert found.pred_masks.sum() == 24 * 24
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 24, 24]]
    assert float(found.scores[0]) == pytest.approx(float(torch.tensor(2.0).sigmoid()))
    assert found.pred_classes.tolist() == [0]


def test_zero_is_inside():
    assert len(referring_inference(torch.zeros(32, 32), (32, 32))) == 1


def test_masks_come_at_the_images_size():
    found = referring_inference(square(48), (200, 300))
    assert found.pred_masks.shape == (1, 200, 300)
    assert float(found.pred_masks.float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("side", "kept"), [(1, False), (2, True), (24, True)])
def test_small_masks_are_cleared_as_counted_at_480(side, kept):
    """At 96 pixels one pixel counts as 25; fifty are two of them."""
    assert len(referring_inference(square(side), (96, 96), no_target_pixels=50)) == kept
    assert len(referring_inference(square(side), (96, 96))) == 1


def test_an_empty_mask_is_an_empty_answer():
    found = referring_inference(torch.full((32, 32), -1.0), (40, 50))
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 40, 50)
    assert found.scores.shape == (0,)
