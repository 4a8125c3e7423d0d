"""Swin backbone: features against timm's, sizes, freezing, loading of released weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from timm.models.swin_transformer import SwinTransformer

from hipie import add_hipie_config
from hipie.checkpoint import load_weights, save_weights
from hipie.checkpoint.base import CheckpointableModel
from hipie.checkpoint.converters.swin import RELEASED_SWIN
from hipie.errors import InputError
from hipie.modeling.backbone.swin import SwinBackbone

SHAPE = {"embed_dim": 16, "depths": (2, 2, 2, 1), "num_heads": (1, 2, 4, 8), "window_size": 4}


def make_backbone(**options) -> SwinBackbone:
    return SwinBackbone(**{**SHAPE, "drop_path_rate": 0.0, **options}).eval()


class Holder(CheckpointableModel):
    """Model that has nothing but a Swin backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = make_backbone()

    @classmethod
    def checkpoint_converters(cls):
        return (RELEASED_SWIN,)


@pytest.fixture
def timm_swin():
    """timm's Swin, whose maps are all multiples of the window at 128 pixels."""
    swin = SwinTransformer(img_size=128, num_classes=5, **SHAPE).eval()
    for parameter in swin.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.ones_(swin.norm.weight)
    torch.nn.init.zeros_(swin.norm.bias)
    return swin


def released_names(state: dict) -> dict:
    """Names of the released files, with the tables that they also contain."""
    renamed = {}
    for name, value in state.items():
        for stage in (1, 2, 3):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample.")
        renamed[name.replace("..", ".").replace("head.fc.", "head.")] = value
    renamed["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 16, 16)
    return renamed


@pytest.mark.parametrize("released", [True, False])
def test_features_are_those_of_timm_with_the_same_weights(timm_swin, tmp_path, released):
    state = timm_swin.state_dict()
    save_weights(
        _named(released_names(state) if released else state), tmp_path / "s.pth", half=False
    )
    model = Holder().eval()
    report = load_weights(model, tmp_path / "s.pth")
    # The norms of the four outputs are new; attention tables are computed.
    assert {name.split(".")[1] for name in report.missing if "index" not in name} == {
        f"norm{i}" for i in range(4)
    }
    assert not report.unexpected and not report.mismatched
    assert any(name.startswith("head.") for name in report.dropped)
    image = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        features = model.backbone(image)
        expected = timm_swin.forward_intermediates(image, intermediates_only=True)
    assert list(features) == ["res2", "res3", "res4", "res5"]
    for feature, reference in zip(features.values(), expected, strict=True):
        norm = F.layer_norm(reference.permute(0, 2, 3, 1), (reference.shape[1],))
        torch.testing.assert_close(feature, norm.permute(0, 3, 1, 2), atol=2e-4, rtol=1e-4)


def _named(state: dict) -> torch.nn.Module:
    """A module whose state dict has these tensors."""
    module = torch.nn.Module()
    module.state_dict = lambda *args, **kwargs: state
    return module


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 70), (33, 31)])
def test_images_of_any_size_have_features_of_rounded_up_size(height, width):
    backbone = make_backbone(out_features=("res3", "res5"))
    shapes = backbone.output_shape()
    assert {name: (s.channels, s.stride) for name, s in shapes.items()} == {
        "res3": (32, 8),
        "res5": (128, 32),
    }
    features = backbone(torch.randn(1, 3, height, width))
    for name, shape in shapes.items():
        sides = (-(-height // shape.stride), -(-width // shape.stride))
        assert features[name].shape == (1, shape.channels, *sides)
    assert backbone.size_divisibility == 0
    assert not hasattr(backbone, "norm0")


@pytest.mark.parametrize(("freeze_at", "frozen"), [(0, 0), (1, 4), (2, None)])
def test_frozen_stages_have_no_gradient_and_no_stochastic_depth(freeze_at, frozen):
    backbone = make_backbone(freeze_at=freeze_at, drop_path_rate=0.5).train()
    names = {name for name, parameter in backbone.named_parameters() if not parameter.requires_grad}
    if frozen is None:
        assert all(name.startswith(("patch_embed.", "layers.0.")) for name in names)
        assert "layers.0.blocks.1.attn.qkv.weight" in names
        assert not backbone.layers[0].training and backbone.layers[1].training
    else:
        assert len(names) == frozen
        assert all(name.startswith("patch_embed.") for name in names)
        assert backbone.layers[0].training


def test_norms_biases_and_position_tables_have_no_weight_decay():
    backbone = make_backbone(ape=True, pretrain_img_size=32)
    without = backbone.parameters_without_weight_decay()
    assert "layers.0.blocks.0.attn.relative_position_bias_table" in without
    assert {"absolute_pos_embed", "norm0.weight", "layers.2.blocks.1.mlp.fc1.bias"} <= without
    assert "layers.0.blocks.0.attn.qkv.weight" not in without


def test_keys_of_the_configuration():
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_swin_backbone", "MODEL.BACKBONE.FREEZE_AT", 1),
            *("MODEL.SWIN.EMBED_DIM", 16, "MODEL.SWIN.DEPTHS", (1, 1, 1, 1)),
            *("MODEL.SWIN.NUM_HEADS", (1, 2, 4, 8), "MODEL.SWIN.WINDOW_SIZE", 4),
        ]
    )
    backbone = build_backbone(cfg)
    assert isinstance(backbone, SwinBackbone)
    assert backbone.output_shape()["res4"].channels == 64
    assert not backbone.patch_embed.proj.weight.requires_grad
    cfg.MODEL.SWIN.OUT_FEATURES = ("p0",)
    with pytest.raises(InputError, match=r"MODEL\.SWIN\.OUT_FEATURES is \('p0',\).*res2, res3"):
        build_backbone(cfg)
