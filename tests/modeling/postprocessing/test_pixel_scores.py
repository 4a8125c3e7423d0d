"""Scores of pixels and masks against NumPy, and their combination with those of queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.postprocessing.pixel_scores import (
    PixelRows,
    PixelScores,
    mask_class_probabilities,
)
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.structures import ImageQueries
from tests.modeling.postprocessing.test_universal_inference import (  # noqa: F401
    run,
    stuff,
    things,
)


def test_mean_over_masks_against_numpy() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(3, 5, 6)
    logits = torch.randn(4, 10, 12)
    logits[3] = -logits[3].abs() - 1  # an empty mask
    result = mask_class_probabilities(probabilities, logits).numpy()
    soft = 1 / (1 + np.exp(-logits.double().numpy()))
    for query in range(4):
        weights = soft[query] if query == 3 else soft[query] * (soft[query] > 0.5)
        for k in range(3):
            repeated = probabilities[k].numpy().repeat(2, axis=0).repeat(2, axis=1)
            expected = np.average(repeated, weights=weights)
            assert result[query, k] == pytest.approx(expected, abs=1e-6)


def test_a_mask_of_one_pixel_has_the_probabilities_of_that_pixel() -> None:
    pixels = PixelScores(torch.randn(4, 5, 6), 1.0, 1.0)
    logits = torch.full((1, 10, 12), -20.0)
    logits[0, 5, 6] = 20.0
    torch.testing.assert_close(pixels.of_masks(logits)[0], pixels.probabilities[:-1, 2, 3])
    (combined,) = pixels.combine(logits, torch.rand(1, 3))
    torch.testing.assert_close(combined, pixels.of_masks(logits))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_rows_of_the_semantic_map_against_the_whole_map(weight: float) -> None:
    torch.manual_seed(0)
    logits, scores = torch.randn(4, 2, 3), 1.2 * torch.rand(20, 3, 24)
    rows = PixelRows(PixelScores(logits, 0.0, weight), (14, 18), (20, 24))
    upsampled = F.interpolate(logits[None], scale_factor=8, mode="bilinear")[..., :14, :18]
    upsampled = F.interpolate(upsampled, size=(20, 24), mode="bilinear")[0]
    whole = upsampled.softmax(0)[:-1].transpose(0, 1)
    expected = scores.clamp(0, 1) ** (1 - weight) * whole**weight
    for band in (slice(0, 7), slice(7, 20)):
        combined = rows.combine(scores[band], band)
        torch.testing.assert_close(combined, expected[band], atol=1e-5, rtol=1e-4)


def left_cat(strength: float = 6.0) -> torch.Tensor:
    """Pixel logits [4, 4, 4] of (dog, cat, grass, none): cats on the left, none on the right."""
    logits = torch.zeros(4, 4, 4)
    logits[1, :, :2], logits[3, :, 2:] = strength, strength
    return logits


def test_pixels_rename_masks(
    things: ImageQueries,  # noqa: F811
    stuff: ImageQueries,  # noqa: F811
) -> None:
    kept = run(things, stuff)["instances"]
    same = run(things, stuff, pixel_scores=PixelScores(left_cat(), 0.0, 0.0))["instances"]
    assert torch.equal(kept.scores, same.scores)
    assert torch.equal(kept.pred_classes, same.pred_classes)
    renamed = run(things, stuff, pixel_scores=PixelScores(left_cat(), 1.0, 0.0))["instances"]
    assert renamed.pred_classes[0] == 1  # the dog on the left is a cat
    assert renamed.pred_masks[0, :, :20].all() and renamed.scores[0] > 0.9
    on_the_right = renamed.pred_masks[:, :, 30:].flatten(1).any(1)
    assert renamed.scores[on_the_right].max() < 0.1  # no class is there


@pytest.mark.parametrize("labels_only", [False, True])
def test_pixels_change_the_semantic_map(
    things: ImageQueries,  # noqa: F811
    stuff: ImageQueries,  # noqa: F811
    labels_only: bool,
) -> None:
    settings = InferenceSettings(semantic_labels_only=labels_only)
    pixels = PixelScores(left_cat(), 0.0, 1.0)
    results = run(things, stuff, settings, pixel_scores=pixels)
    if labels_only:
        labels, scores = results["sem_seg_labels"].labels, results["sem_seg_labels"].scores
    else:
        scores, labels = results["sem_seg"].max(0)
    assert (labels[:, :20] == 1).all() and (scores[:, :20] > 0.9).all()
    assert (scores[:, 30:] < 0.1).all()
