"""The stuff branch's own pyramid: its sizes, its order of levels, what reaches what."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hipie.modeling.pixel_decoder.maskdino_pixel_decoder import StuffPixelDecoder

CHANNELS = (5, 6, 7)


def make_decoder(layers: int = 1) -> StuffPixelDecoder:
    decoder = StuffPixelDecoder(CHANNELS, 32, layers, 4, 2, 32)
    for name, parameter in decoder.named_parameters():
        if "attention_weights" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return decoder.eval()


def make_features(height: int, width: int, batch: int = 1) -> list[Tensor]:
    sizes = [(c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (8, 16, 32))]
    return [torch.randn(batch, *size) for size in sizes]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (72, 40)])
def test_sizes(height: int, width: int) -> None:
    features = make_features(height, width, batch=2)
    found = make_decoder()(features)
    fine = features[0].shape[-2:]
    assert [one.shape[-2:] for one in found.maps[:3]] == [one.shape[-2:] for one in features]
    assert found.mask_features.shape == (2, 32, 2 * fine[0], 2 * fine[1])
    areas = [one.shape[-2] * one.shape[-1] for one in found.maps]
    assert found.levels.tokens.shape == (2, sum(areas), 32)


def test_tokens_go_from_coarse_to_fine() -> None:
    found = make_decoder()(make_features(64, 96))
    assert found.levels.sizes == [tuple(one.shape[-2:]) for one in found.maps[::-1]]
    for again, one in zip(found.levels.as_maps(found.levels.tokens), found.maps[::-1], strict=True):
        assert torch.equal(again, one)
    assert not found.levels.padding_mask.any()
    assert torch.equal(found.levels.ratios, torch.ones(1, 4, 2))


def test_images_of_a_batch_do_not_mix() -> None:
    decoder, features = make_decoder(2), make_features(64, 96, batch=2)
    together = decoder(features)
    alone = decoder([one[1:] for one in features])
    torch.testing.assert_close(
        alone.mask_features, together.mask_features[1:], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        alone.levels.tokens, together.levels.tokens[1:], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_reaches_the_mask_features(level: int) -> None:
    decoder, features = make_decoder(), make_features(64, 96)
    plain = decoder(features).mask_features
    features[level] = features[level] + torch.randn_like(features[level])
    assert (decoder(features).mask_features - plain).abs().max() > 1e-3


def test_without_encoder_the_fine_map_and_its_lateral_make_the_mask_features() -> None:
    """The plain formula, once more: relu(conv(lateral + level)), then twice the size."""
    decoder, features = make_decoder(0), make_features(64, 96)
    level = decoder.projections(features)[0]
    fused = decoder.output(decoder.lateral(features[0]) + level).relu()
    expected = decoder.mask_features(fused)
    torch.testing.assert_close(decoder(features).mask_features, expected)
