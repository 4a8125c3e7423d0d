"""The trunk against timm's own network, and where the two are meant to differ."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from grser.modeling.swin import SWINS, SwinTrunk


def stages(trunk: SwinTrunk, pixels: torch.Tensor) -> list[torch.Tensor]:
    x, found = trunk.start(pixels), []
    for number in range(4):
        x = trunk.stage(number, x)
        found.append(x)
    return found


def pair() -> tuple[SwinTrunk, SwinTransformer]:
    """Ours, and timm's network with the same weights, for images of 128x128."""
    torch.manual_seed(0)
    shape = SWINS["swin_nano"]
    theirs = SwinTransformer(
        img_size=128,
        embed_dim=shape.width,
        depths=shape.depths,
        num_heads=shape.heads,
        window_size=shape.window,
        num_classes=0,
        drop_path_rate=0.0,
    ).eval()
    ours = SwinTrunk("swin_nano").eval()
    names = {"embed.": "patch_embed."}
    state = dict(theirs.state_dict())
    own = {}
    for key in ours.state_dict():
        parts = key.split(".")
        if parts[0] == "embed":
            own[key] = state[key.replace("embed.", names["embed."], 1)]
        elif parts[0] == "stages":
            own[key] = state[".".join(["layers", parts[1], "blocks", *parts[2:]])]
        else:
            own[key] = state[".".join(["layers", str(int(parts[1]) + 1), "downsample", *parts[2:]])]
    ours.load_state_dict(own)
    return ours, theirs


def test_equal_to_timm_where_maps_are_whole_windows():
    """At 128 pixels the maps are 32, 16, 8 and 4: multiples of the window of 4."""
    ours, theirs = pair()
    pixels = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        wanted = theirs.forward_intermediates(pixels, intermediates_only=True)
        found = stages(ours, pixels)
    assert [one.shape[1] for one in found] == [32, 16, 8, 4]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.permute(0, 3, 1, 2), other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(64, 64), (72, 100), (36, 52)])
def test_any_size_is_padded(size):
    with torch.no_grad():
        found = stages(SwinTrunk("swin_nano").eval(), torch.randn(1, 3, *size))
    height, width = (-(-side // 4) for side in size)
    for one, channels in zip(found, (32, 64, 128, 256), strict=True):
        assert one.shape == (1, height, width, channels)
        height, width = -(-height // 2), -(-width // 2)


def test_drop_path_grows_from_nothing():
    trunk = SwinTrunk("swin_nano", 0.4)
    rates = [
        getattr(block.drop_path1, "drop_prob", 0.0) for stage in trunk.stages for block in stage
    ]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
