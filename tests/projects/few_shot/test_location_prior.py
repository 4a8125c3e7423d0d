"""PerSAM's first look, against slow formulas and on planted features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie_fewshot import Example
from hipie_fewshot.modeling.location_prior import (
    covered_cells,
    location_prior,
    similarity,
    target_feature,
)


class Grid:
    """Stands for an encoded image whose features are given."""

    def __init__(self, sam, features, size):
        scale = sam.image_size / max(size)
        self.sam, self.features, self.size = sam, features, size
        self.input_size = tuple(int(side * scale + 0.5) for side in size)


@pytest.fixture
def planted(sam):
    """All cells of the grid alike but for one, which is the target's."""
    features = torch.zeros(1, 32, 8, 8)
    features[:, 0] = 1
    features[:, 1] = 0.2
    features[0, :, 2, 5] = F.one_hot(torch.tensor(1), 32) * 3.0
    return Grid(sam, features, (96, 128)), F.one_hot(torch.tensor(1), 32).float()


def test_the_point_lies_in_the_planted_cell(planted):
    picture, target = planted
    prior = location_prior(picture, target)
    x, y = prior.points[0]
    assert 5 * 16 <= x < 6 * 16
    assert 2 * 16 <= y < 3 * 16
    values = similarity(picture, target)
    assert values.shape == (96, 128)
    assert values[y, x] == values.max()
    assert values[prior.points[1][1], prior.points[1][0]] == values.min()
    assert values.max() <= 1 + 1e-6


def test_guidance_lies_where_the_image_lies_or_is_stretched(planted):
    """Row 2 of the grid is a third of the way down the image, which fills 6 of 8 rows."""
    picture, target = planted
    still = location_prior(picture, target, stretched=False).guidance.reshape(8, 8)
    assert divmod(int(still.argmax()), 8) == (2, 5)
    assert still[6:].eq(0).all()
    assert still[:6].gt(0).all()
    stretched = location_prior(picture, target).guidance.reshape(8, 8)
    assert divmod(int(stretched.argmax()), 8) == (3, 5)
    assert stretched.min() > 0
    assert stretched.max() < 1


def test_the_target_is_the_mean_under_the_masks(sam, example):
    grid = sam.encode(example.image).features[0].double()
    cells = covered_cells(sam, example.mask, (8, 8))
    slow = sum(grid[:, y, x] for y, x in cells.nonzero().tolist()) / int(cells.sum())
    torch.testing.assert_close(target_feature(sam, [example]).double(), slow, atol=1e-5, rtol=1e-5)


def test_several_examples_count_by_their_cells(sam, example):
    other = Example(example.image[::-1].copy(), example.mask, "cup")
    one, two = target_feature(sam, [example]), target_feature(sam, [other])
    torch.testing.assert_close(target_feature(sam, [example, other]), (one + two) / 2)


def test_cells_inside_the_mask_are_covered_and_those_outside_are_not(sam):
    mask = np.zeros((64, 128), bool)
    mask[16:48, 32:80] = True
    cells = covered_cells(sam, mask, (8, 8))
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:3, 2:5] = True
    assert torch.equal(cells, expected)


def test_a_thin_mask_still_has_a_cell(sam):
    mask = np.zeros((128, 128), bool)
    mask[33, 70] = True
    assert covered_cells(sam, mask, (8, 8)).nonzero().tolist() == [[2, 4]]
