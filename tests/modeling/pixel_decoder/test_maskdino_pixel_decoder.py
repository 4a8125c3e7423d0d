"""Pixel decoder of stuff: sizes, order of levels, independence of images, mask features."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import Tensor

from hipie.modeling.pixel_decoder.maskdino_pixel_decoder import MaskDINOPixelDecoder
from hipie.modeling.transformer_decoder.layers import TransformerConfig

CHANNELS = (5, 6, 7)


def make_decoder(layers: int = 1) -> MaskDINOPixelDecoder:
    transformer = TransformerConfig(
        width=32, encoder_layers=layers, num_heads=4, num_points=2, dim_feedforward=32
    )
    decoder = MaskDINOPixelDecoder(CHANNELS, transformer)
    for name, parameter in decoder.named_parameters():
        if "attention_weights" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return decoder.eval()


def make_features(height: int, width: int, batch: int = 1) -> list[Tensor]:
    sizes = [(c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (8, 16, 32))]
    return [torch.randn(batch, *size) for size in sizes]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (72, 40)])
def test_sizes_follow_the_features(height: int, width: int) -> None:
    features = make_features(height, width, batch=2)
    levels, mask_features = make_decoder()(features)
    fine = features[0].shape[-2:]
    maps = levels.to_maps()[::-1]
    assert [level.shape[-2:] for level in maps[:3]] == [level.shape[-2:] for level in features]
    assert mask_features.shape == (2, 32, 2 * fine[0], 2 * fine[1])
    assert levels.tokens.shape == (2, sum(h * w for h, w in levels.sizes), 32)


def test_levels_are_ordered_from_coarse_to_fine_without_padding() -> None:
    levels, _ = make_decoder()(make_features(64, 96))
    assert levels.sizes == ((1, 2), (2, 3), (4, 6), (8, 12))
    assert not levels.padding_mask.any()
    assert torch.equal(levels.valid_ratios, torch.ones(1, 4, 2))


def test_images_of_a_batch_are_independent() -> None:
    decoder, features = make_decoder(2), make_features(64, 96, batch=2)
    levels, mask_features = decoder(features)
    own_levels, own_mask_features = decoder([level[1:] for level in features])
    torch.testing.assert_close(own_mask_features, mask_features[1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(own_levels.tokens, levels.tokens[1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_reaches_the_mask_features(level: int) -> None:
    decoder, features = make_decoder(), make_features(64, 96)
    _, plain = decoder(features)
    features[level] = features[level] + torch.randn_like(features[level])
    assert (decoder(features)[1] - plain).abs().max() > 1e-3


def test_mask_features_without_encoder_layers_follow_the_formula() -> None:
    """relu(conv(lateral + level)), then twice the size."""
    decoder, features = make_decoder(0), make_features(64, 96)
    level = decoder.projections(features)[0]
    fused = decoder.output(decoder.lateral(features[0]) + level).relu()
    expected = decoder.mask_features(fused)
    torch.testing.assert_close(decoder(features)[1], expected)


def test_mask_features_of_a_lateral_map_of_stride_4_follow_maskdino() -> None:
    """conv1x1(relu(conv(lateral + upsampled level))) at the size of res2, without doubling."""
    transformer = TransformerConfig(
        width=32, encoder_layers=0, num_heads=4, num_points=2, dim_feedforward=32
    )
    decoder = MaskDINOPixelDecoder(CHANNELS, transformer, lateral=ShapeSpec(channels=4, stride=4))
    res2, features = torch.randn(1, 4, 16, 24), make_features(64, 96)
    levels, mask_features = decoder([res2, *features])
    upsampled = torch.nn.functional.interpolate(
        decoder.projections(features)[0], scale_factor=2, mode="bilinear"
    )
    (convolution,) = decoder.mask_features
    expected = convolution(decoder.output(decoder.lateral(res2) + upsampled).relu())
    torch.testing.assert_close(mask_features, expected)
    assert levels.sizes == ((1, 2), (2, 3), (4, 6), (8, 12))
