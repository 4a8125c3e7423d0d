"""The stuff decoder's pyramid: its order, its positions, and its mask features by hand."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hipie.model.stuff_pixel_decoder import StuffPixelDecoder

CHANNELS, WIDTH = (5, 6, 7), 32


def make_decoder() -> StuffPixelDecoder:
    decoder = StuffPixelDecoder(CHANNELS, WIDTH, 2, 4, 2, 24)
    for parameter in decoder.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval()


def make_features(height: int = 33, width: int = 50) -> list[Tensor]:
    sizes = [
        (c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (8, 16, 32), strict=True)
    ]
    return [torch.randn(2, *size) for size in sizes]


def group_norm(x: Tensor, norm: torch.nn.GroupNorm) -> Tensor:
    """Every group's mean and deviation, in float64."""
    groups = x.double().view(len(x), norm.num_groups, -1)
    groups = (groups - groups.mean(-1, keepdim=True)) / torch.sqrt(
        groups.var(-1, keepdim=True, unbiased=False) + norm.eps
    )
    scale, shift = norm.weight.double(), norm.bias.double()
    return groups.view(x.shape) * scale[:, None, None] + shift[:, None, None]


def test_levels_run_from_coarse_to_fine() -> None:
    pyramid = make_decoder()(make_features())
    sizes = [(1, 1), (2, 2), (3, 4), (5, 7)]
    assert pyramid.levels.sizes == sizes
    assert pyramid.levels.shapes.tolist() == [list(size) for size in sizes]
    assert pyramid.levels.starts.tolist() == [0, 1, 5, 17]
    assert [tuple(one.shape[-2:]) for one in pyramid.maps] == sizes[::-1]
    flattened = pyramid.levels.as_maps(pyramid.levels.tokens)
    assert all(torch.equal(a, b) for a, b in zip(flattened, pyramid.maps[::-1], strict=True))
    assert pyramid.mask_features.shape == (2, WIDTH, 10, 14)


def test_nothing_is_padding() -> None:
    levels = make_decoder()(make_features()).levels
    assert not levels.padding_mask.any()
    assert torch.equal(levels.ratios, torch.ones(2, 4, 2))


def test_positions_count_pixels_from_one() -> None:
    decoder = make_decoder()
    levels = decoder(make_features()).levels
    height, width, y, x = 5, 7, 3, 1
    half = WIDTH // 2
    expected = decoder.level_embedding[0].double().clone()
    for place, (index, count) in enumerate(((y, height), (x, width))):
        for i in range(half):
            angle = 2 * math.pi * (index + 1) / (count + 1e-6) / 10000 ** (i // 2 * 2 / half)
            expected[place * half + i] += math.cos(angle) if i % 2 else math.sin(angle)
    found = levels.positions[0, 17 + y * width + x]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


def test_mask_features_by_hand() -> None:
    decoder, features = make_decoder(), make_features()
    with torch.no_grad():
        pyramid = decoder(features)
        lateral, norm = decoder.lateral
        side = torch.einsum(
            "oc,bchw->bohw", lateral.weight[:, :, 0, 0].double(), features[0].double()
        )
        # Both maps have stride 8, so nothing is resized.
        joined = group_norm(side, norm) + pyramid.maps[0].double()
        conv, norm = decoder.output
        columns = torch.nn.functional.unfold(joined, 3, padding=1)
        mixed = (conv.weight.double().flatten(1) @ columns).view(joined.shape)
        fused = group_norm(mixed, norm).clamp(min=0)
        grow, norm, _, last = decoder.mask_features
        grown = torch.einsum("cokl,bchw->bohkwl", grow.weight.double(), fused)
        grown = grown.reshape(2, WIDTH, 10, 14) + grow.bias.double()[:, None, None]
        hidden = group_norm(grown, norm).clamp(min=0)
        expected = torch.einsum("oc,bchw->bohw", last.weight[:, :, 0, 0].double(), hidden)
        expected = expected + last.bias.double()[:, None, None]
    torch.testing.assert_close(pyramid.mask_features.double(), expected, atol=1e-4, rtol=1e-4)
