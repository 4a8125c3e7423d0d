"""PerSAM's location prior, against direct formulas and on synthetic features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie_fewshot import Example
from hipie_fewshot.modeling.location_prior import (
    location_prior,
    mask_cells,
    similarity_map,
    target_embedding,
)


class SyntheticImage:
    """Encoded image with given features."""

    def __init__(self, sam, features, size):
        scale = sam.image_size / max(size)
        self.sam, self.features, self.size = sam, features, size
        self.input_size = tuple(int(side * scale + 0.5) for side in size)


@pytest.fixture
def image_and_target(sam):
    """Features that equal the target in one cell of the grid, with the target."""
    features = torch.zeros(1, 32, 8, 8)
    features[:, 0] = 1
    features[:, 1] = 0.2
    features[0, :, 2, 5] = F.one_hot(torch.tensor(1), 32) * 3.0
    return SyntheticImage(sam, features, (96, 128)), F.one_hot(torch.tensor(1), 32).float()


def test_points_are_the_most_and_the_least_similar_pixel(image_and_target):
    image, target = image_and_target
    prior = location_prior(image, target)
    x, y = prior.points[0]
    assert 5 * 16 <= x < 6 * 16
    assert 2 * 16 <= y < 3 * 16
    values = similarity_map(image, target)
    assert values.shape == (96, 128)
    assert values[y, x] == values.max()
    assert values[prior.points[1][1], prior.points[1][0]] == values.min()
    assert values.max() <= 1 + 1e-6


def test_guidance_is_aligned_with_the_image_or_stretched(image_and_target):
    """Row 2 of the grid is a third of the way down the image, which fills 6 of 8 rows."""
    image, target = image_and_target
    aligned = location_prior(image, target, stretched=False).guidance.reshape(8, 8)
    assert divmod(int(aligned.argmax()), 8) == (2, 5)
    assert aligned[6:].eq(0).all()
    assert aligned[:6].gt(0).all()
    stretched = location_prior(image, target).guidance.reshape(8, 8)
    assert divmod(int(stretched.argmax()), 8) == (3, 5)
    assert stretched.min() > 0
    assert stretched.max() < 1


def test_target_is_the_mean_feature_under_the_masks(sam, example):
    grid = sam.encode(example.image).features[0].double()
    cells = mask_cells(sam, example.mask, (8, 8))
    expected = sum(grid[:, y, x] for y, x in cells.nonzero().tolist()) / int(cells.sum())
    torch.testing.assert_close(
        target_embedding(sam, [example]).double(), expected, atol=1e-5, rtol=1e-5
    )


def test_examples_are_weighted_by_their_cells(sam, example):
    other = Example(example.image[::-1].copy(), example.mask, "cup")
    mean = (target_embedding(sam, [example]) + target_embedding(sam, [other])) / 2
    torch.testing.assert_close(target_embedding(sam, [example, other]), mean)


def test_cells_inside_the_mask_are_selected(sam):
    mask = np.zeros((64, 128), bool)
    mask[16:48, 32:80] = True
    cells = mask_cells(sam, mask, (8, 8))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:3, 2:5] = True
    assert torch.equal(cells, expected)


def test_thin_mask_selects_the_cell_with_the_largest_area(sam):
    mask = np.zeros((128, 128), bool)
    mask[33, 70] = True
    assert mask_cells(sam, mask, (8, 8)).nonzero().tolist() == [[2, 4]]
