"""Projections: strides, widths, and where the fourth level comes from."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hipie.modeling.pixel_decoder.input_projection import InputProjections


def test_four_levels_from_three() -> None:
    projections = InputProjections((3, 5, 7), 64)
    features = [torch.randn(2, c, 16 // s, 24 // s) for c, s in ((3, 1), (5, 2), (7, 4))]
    levels = projections(features)
    assert [tuple(one.shape) for one in levels] == [
        (2, 64, 16, 24),
        (2, 64, 8, 12),
        (2, 64, 4, 6),
        (2, 64, 2, 3),
    ]


def test_the_fourth_level_reads_the_raw_third() -> None:
    projections = InputProjections((3, 5, 7), 64)
    features = [torch.randn(1, c, s, s) for c, s in ((3, 8), (5, 4), (7, 2))]
    convolution, norm = projections.levels[3]
    expected = F.conv2d(features[2], convolution.weight, convolution.bias, stride=2, padding=1)
    expected = F.group_norm(expected, 32, norm.weight, norm.bias)
    torch.testing.assert_close(projections(features)[3], expected)
