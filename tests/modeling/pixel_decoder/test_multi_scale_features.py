"""Multi-scale features: projection to one width, flattening, padding masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hipie.modeling.pixel_decoder.multi_scale_features import (
    InputProjections,
    flatten_levels,
    level_strides,
    resize_padding_mask,
    valid_ratios,
)
from hipie.structures import FeatureLevels

SIZES = [(4, 6), (2, 3)]


def make_levels(valid: tuple[int, int] = (4, 6)) -> tuple[FeatureLevels, list[torch.Tensor]]:
    """Two levels of two images; the second covers only `valid` of the finer level."""
    mask = torch.zeros(2, *SIZES[0], dtype=torch.bool)
    mask[1, valid[0] :], mask[1, :, valid[1] :] = True, True
    masks = [mask, resize_padding_mask(mask, SIZES[1])]
    maps = [torch.randn(2, 5, *size) for size in SIZES]
    return flatten_levels(maps, [torch.zeros_like(level) for level in maps], masks), maps


def test_tokens_are_the_flattened_maps() -> None:
    levels, maps = make_levels()
    assert levels.tokens.shape == (2, 30, 5)
    assert levels.sizes == tuple(SIZES)
    assert levels.spatial_shapes.tolist() == [[4, 6], [2, 3]]
    assert levels.level_start_index.tolist() == [0, 24]
    torch.testing.assert_close(levels.tokens[1, 24 + 3 + 2], maps[1][1, :, 1, 2])
    for unflattened, level in zip(levels.to_maps(), maps, strict=True):
        torch.testing.assert_close(unflattened, level)


def test_reference_points_are_pixel_centres_on_every_canvas() -> None:
    levels, _ = make_levels(valid=(2, 4))
    points = levels.reference_points()
    assert points.shape == (2, 30, 2, 2)
    torch.testing.assert_close(points[0, 6 + 3, 0], torch.tensor([3.5 / 6, 1.5 / 4]))
    torch.testing.assert_close(points[0, 6 + 3, 1], torch.tensor([3.5 / 6, 1.5 / 4]))
    torch.testing.assert_close(levels.valid_ratios[1, 0], torch.tensor([4 / 6, 2 / 4]))
    torch.testing.assert_close(points[1, 6 + 3, 0], torch.tensor([3.5 / 6, 1.5 / 4]))
    on_coarse = torch.tensor([3.5 / 4, 1.5 / 2]) * levels.valid_ratios[1, 1]
    torch.testing.assert_close(points[1, 6 + 3, 1], on_coarse)


def test_padding_masks_are_resized_by_the_nearest_pixel() -> None:
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :, 2:] = True
    assert resize_padding_mask(mask, (2, 2)).tolist() == [[[False, True], [False, True]]]
    assert resize_padding_mask(mask, (4, 4)).equal(mask)


def test_valid_ratios_are_x_then_y() -> None:
    mask = torch.zeros(2, 4, 10, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 6:] = True, True
    torch.testing.assert_close(valid_ratios(mask), torch.tensor([[1.0, 1.0], [0.6, 0.75]]))


def test_three_feature_maps_give_four_levels() -> None:
    projections = InputProjections((3, 5, 7), 64)
    features = [torch.randn(2, c, 16 // s, 24 // s) for c, s in ((3, 1), (5, 2), (7, 4))]
    levels = projections(features)
    assert [tuple(level.shape) for level in levels] == [
        (2, 64, 16, 24),
        (2, 64, 8, 12),
        (2, 64, 4, 6),
        (2, 64, 2, 3),
    ]


def test_the_fourth_level_is_made_from_the_third_feature_map() -> None:
    projections = InputProjections((3, 5, 7), 64)
    features = [torch.randn(1, c, s, s) for c, s in ((3, 8), (5, 4), (7, 2))]
    convolution, norm = projections.levels[3]
    expected = F.conv2d(features[2], convolution.weight, convolution.bias, stride=2, padding=1)
    expected = F.group_norm(expected, 32, norm.weight, norm.bias)
    torch.testing.assert_close(projections(features)[3], expected)


def test_further_levels_halve_the_level_before() -> None:
    projections = InputProjections((3, 5), 64, num_levels=4)
    features = [torch.randn(1, 3, 16, 24), torch.randn(1, 5, 8, 12)]
    levels = projections(features)
    assert [level.shape[-1] for level in levels] == [24, 12, 6, 3]
    convolution, norm = projections.levels[3]
    expected = F.conv2d(levels[2], convolution.weight, convolution.bias, stride=2, padding=1)
    expected = F.group_norm(expected, 32, norm.weight, norm.bias)
    torch.testing.assert_close(levels[3], expected)
    assert len(InputProjections((3, 5), 64, num_levels=2)(features)) == 2
    assert level_strides((8, 16), 4) == (8, 16, 32, 64)
    assert level_strides((4, 8, 16)) == (4, 8, 16, 32)
    assert level_strides((8, 16), 2) == (8, 16)
