"""MaskCut against stored results of the released program, and its properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hipie.refinement import PAMRConfig
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.maskcut import mask_cuts, refined_mask
from tests.projects.training_free.ruled import normal_tensor

GRID = (12, 12)
RELEASED = Path(__file__).parent / "data" / "maskcut.npz"


def planted_features(seed: int) -> torch.Tensor:
    """Features of three rectangles on a background, which may overlap, with noise."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(GRID, dtype=torch.long)
    for region in range(1, 4):
        y, x = (int(v) for v in torch.randint(0, 9, (2,), generator=generator))
        height, width = (int(v) for v in torch.randint(2, 6, (2,), generator=generator))
        target[y : y + height, x : x + width] = region
    codes = torch.randn(4, 16, generator=generator)
    noise = 0.9 * torch.randn(144, 16, generator=generator)
    return (codes[target.flatten()] + noise).double()


@pytest.mark.parametrize("seed", range(8))
def test_cuts_equal_those_of_the_released_program(seed):
    with np.load(RELEASED) as stored:
        masks, vectors = stored[f"maskcut_{seed}"], stored[f"vectors_{seed}"]
    kept = masks.any((1, 2))
    cuts = mask_cuts(planted_features(seed), GRID, 3, 0.3)
    np.testing.assert_array_equal(np.stack([cut.mask for cut in cuts]), masks[kept])
    for cut, vector in zip(cuts, vectors[kept]):
        sign = np.sign((cut.vector * vector).sum())
        np.testing.assert_allclose(cut.vector, sign * vector, atol=1e-5)


def test_an_object_has_at_most_two_corners():
    """The largest side of a frame around a square is not taken for an object."""
    inside = torch.zeros(GRID, dtype=torch.bool)
    inside[3:10, 3:10] = True
    features = torch.eye(2)[inside.long().flatten()] + 0.01 * normal_tensor("frame", 144, 2)
    (cut,) = mask_cuts(features, GRID, 1, 0.5)
    np.testing.assert_array_equal(cut.mask, inside.numpy())


def test_features_are_not_changed():
    features = planted_features(0)
    before = features.clone()
    mask_cuts(features, GRID, 3, 0.3)
    assert torch.equal(features, before)


def test_a_grid_of_another_size_is_an_error():
    with pytest.raises(TrainingFreeError, match="12 patches cannot be cut as a grid of 3 by 5"):
        mask_cuts(torch.zeros(12, 4), (3, 5))


@pytest.mark.parametrize("method", ["crf", "pamr"])
def test_refinement_follows_the_colours_and_fills_holes(method):
    if method == "crf":
        pytest.importorskip("pydensecrf", reason="the optional package pydensecrf2 is missing")
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (y - 30) ** 2 + (x - 34) ** 2 < 18**2
    image = torch.where(disc, 0.8, 0.2).expand(3, -1, -1).clone()
    image += 0.01 * normal_tensor("grain", 3, 64, 64)
    image = image.clamp(0, 1)
    patches = disc[4::8, 4::8].numpy()

    def iou(mask):
        return (mask & disc.numpy()).sum() / (mask | disc.numpy()).sum()

    pamr = PAMRConfig(10, (1, 2, 4))
    assert iou(refined_mask(patches, image)) < 0.9
    assert iou(refined_mask(patches, image, method, pamr)) > 0.97
    holed = image.clone()
    holed[:, 27:33, 31:37] = 0.2
    assert refined_mask(patches, holed, method, pamr)[30, 34]


def test_a_mask_that_refinement_changes_too_much_is_dropped():
    patches = np.zeros((8, 8), bool)
    patches[3, 3] = True
    image = 0.5 + 0.001 * normal_tensor("flat", 3, 64, 64)
    assert refined_mask(patches, image).sum() == 64
    assert refined_mask(patches, image, "pamr", PAMRConfig(200, (1, 8))) is None


def test_an_unknown_refinement_is_an_error():
    with pytest.raises(TrainingFreeError, match='REFINEMENT is "sharp"; there are'):
        refined_mask(np.ones((2, 2), bool), torch.zeros(3, 8, 8), "sharp")
