"""Swin backbone against timm's network, and maps that are no multiple of the window."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from grser.modeling.swin import SWIN_VARIANTS, SwinBackbone


def stage_outputs(backbone: SwinBackbone, images: torch.Tensor) -> list[torch.Tensor]:
    x, outputs = backbone.forward_stem(images), []
    for index in range(4):
        x = backbone.forward_stage(index, x)
        outputs.append(x)
    return outputs


def equal_networks() -> tuple[SwinBackbone, SwinTransformer]:
    """The backbone here and timm's with the same weights, for images of 128x128."""
    torch.manual_seed(0)
    shape = SWIN_VARIANTS["swin_nano"]
    timm_backbone = SwinTransformer(
        img_size=128,
        embed_dim=shape.width,
        depths=shape.depths,
        num_heads=shape.heads,
        window_size=shape.window,
        num_classes=0,
        drop_path_rate=0.0,
    ).eval()
    backbone = SwinBackbone("swin_nano").eval()
    state = dict(timm_backbone.state_dict())
    renamed = {}
    for key in backbone.state_dict():
        parts = key.split(".")
        if parts[0] == "embed":
            renamed[key] = state[key.replace("embed.", "patch_embed.", 1)]
        elif parts[0] == "stages":
            renamed[key] = state[".".join(["layers", parts[1], "blocks", *parts[2:]])]
        else:
            renamed[key] = state[
                ".".join(["layers", str(int(parts[1]) + 1), "downsample", *parts[2:]])
            ]
    backbone.load_state_dict(renamed)
    return backbone, timm_backbone


def test_equals_timm_where_maps_are_multiples_of_the_window():
    """At 128 pixels the maps are 32, 16, 8 and 4: multiples of the window of 4."""
    backbone, timm_backbone = equal_networks()
    images = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        expected = timm_backbone.forward_intermediates(images, intermediates_only=True)
        outputs = stage_outputs(backbone, images)
    assert [output.shape[1] for output in outputs] == [32, 16, 8, 4]
    for actual, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(actual.permute(0, 3, 1, 2), reference, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (72, 100), (36, 52)])
def test_images_of_any_size_are_padded(size):
    with torch.no_grad():
        outputs = stage_outputs(SwinBackbone("swin_nano").eval(), torch.randn(1, 3, *size))
    height, width = (-(-side // 4) for side in size)
    for output, channels in zip(outputs, (32, 64, 128, 256), strict=True):
        assert output.shape == (1, height, width, channels)
        height, width = -(-height // 2), -(-width // 2)


def test_drop_path_grows_linearly_from_zero():
    backbone = SwinBackbone("swin_nano", 0.4)
    rates = [
        getattr(block.drop_path1, "drop_prob", 0.0) for stage in backbone.stages for block in stage
    ]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
