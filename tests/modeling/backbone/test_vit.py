"""Plain vision transformer, compared with Detectron2's and with its formulas."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.modeling.backbone.vit import ViT
from torch import nn

from hipie.modeling.backbone import ViTPyramid, vit_attention

SHAPE = {
    "depth": 4,
    "num_heads": 4,
    "img_size": 128,
    "pretrain_img_size": 64,
    "window_size": 3,
    "window_block_indexes": (0, 2),
}


def randomize(model: nn.Module) -> nn.Module:
    """Add noise to all parameters, since position embeddings are initialized with zeros."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def pyramid() -> ViTPyramid:
    return randomize(ViTPyramid(width=32, **SHAPE)).eval()


def detectron2_vit(pyramid: ViTPyramid) -> ViT:
    """Detectron2's ViT with the same weights."""
    vit = ViT(embed_dim=32, use_rel_pos=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), **SHAPE)
    report = vit.load_state_dict(pyramid.state_dict(), strict=False)
    assert not report.missing_keys
    assert set(report.unexpected_keys) == {"finer.weight", "finer.bias"}
    return vit.eval()


@pytest.mark.parametrize("size", [(128, 128), (96, 160), (32, 32)])
@pytest.mark.parametrize("working_bytes", [1, 4000, 2**25])
def test_last_block_equals_detectron2(pyramid, monkeypatch, size, working_bytes) -> None:
    monkeypatch.setattr(vit_attention, "WORKING_BYTES", working_bytes)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = detectron2_vit(pyramid)(images)["last_feat"]
        features = pyramid(images)
    torch.testing.assert_close(features["res4"], expected, atol=2e-5, rtol=1e-4)


def test_scales_are_a_transposed_convolution_and_a_maximum(pyramid) -> None:
    features = pyramid(torch.randn(1, 3, 64, 96))
    shapes = pyramid.output_shape()
    for name, feature in features.items():
        stride = shapes[name].stride
        assert feature.shape == (1, shapes[name].channels, 64 // stride, 96 // stride)
    assert {name: shape.channels for name, shape in shapes.items()} == {
        "res3": 16,
        "res4": 32,
        "res5": 32,
    }
    last = features["res4"]
    token = last[0, :, 1, 2]
    weight, bias = pyramid.finer.weight, pyramid.finer.bias
    corner = torch.einsum("c,cdij->dij", token, weight) + bias[:, None, None]
    torch.testing.assert_close(features["res3"][0, :, 2:4, 4:6], corner, atol=1e-4, rtol=1e-4)
    assert torch.equal(features["res5"][0, :, 0, 1], last[0, :, 0:2, 2:4].amax((1, 2)))


def test_batch_equals_single_images(pyramid) -> None:
    images = torch.randn(3, 3, 64, 64)
    batched, alone = pyramid(images), pyramid(images[1:2])
    for name in batched:
        torch.testing.assert_close(batched[name][1:2], alone[name], atol=1e-5, rtol=1e-4)


def test_bfloat16_is_close(pyramid) -> None:
    images = torch.randn(1, 3, 64, 64)
    plain = pyramid(images)["res4"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = pyramid(images)["res4"]
    assert (mixed - plain).norm() < 0.05 * plain.norm()


def test_invalid_size_is_rejected(pyramid) -> None:
    with pytest.raises(ValueError, match="multiples of 32, not 64 x 80"):
        pyramid(torch.randn(1, 3, 64, 80))


def test_features_of_intermediate_blocks(pyramid) -> None:
    """Each scale is that of a network that ends with its block."""
    tapped = ViTPyramid(width=32, feature_blocks=(0, 2, 3), **SHAPE).eval()
    tapped.load_state_dict(pyramid.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features, last = tapped(images), pyramid(images)
        for name, block in (("res3", 0), ("res4", 2)):
            shortened = ViTPyramid(width=32, **{**SHAPE, "depth": block + 1}).eval()
            shortened.load_state_dict(pyramid.state_dict(), strict=False)
            assert torch.equal(features[name], shortened(images)[name])
            assert not torch.equal(features[name], last[name])
    assert torch.equal(features["res5"], last["res5"])


@pytest.mark.parametrize("blocks", [(0, 1), (0, 1, 4), (-1, 1, 2)])
def test_blocks_that_do_not_exist_are_refused(blocks) -> None:
    with pytest.raises(ValueError, match=r"FEATURE_BLOCKS is \(.*DEPTH is 4"):
        ViTPyramid(width=32, feature_blocks=blocks, **SHAPE)
