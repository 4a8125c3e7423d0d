"""Layers of every kind of backbone are called in order and hold most of its parameters."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import SwinTransformer

from hipie.config import add_hipie_config
from hipie.modeling.backbone.layers import backbone_layers
from hipie.modeling.backbone.timm import TimmBackbone
from tests.conftest import tiny_full_size


def make(kind: str) -> torch.nn.Module:
    """A small backbone of a kind: Detectron2's ViT, ResNet and Swin, or a timm model."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    if kind == "swin":
        return SwinTransformer(
            embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4
        )
    if kind in ("vit_h", "r50"):
        return build_backbone(tiny_full_size(kind, "bert-base-uncased"))
    return TimmBackbone(kind)


@pytest.mark.parametrize("kind", ["vit_h", "r50", "swin", "test_efficientnet", "test_resnet"])
def test_layers_hold_most_parameters(kind) -> None:
    backbone = make(kind)
    layers = backbone_layers(backbone)
    assert len(set(layers)) == len(layers) >= 4
    inside = [id(p) for layer in layers for p in layer.parameters()]
    assert len(inside) == len(set(inside))
    count = sum(p.numel() for layer in layers for p in layer.parameters())
    assert count > 0.5 * sum(p.numel() for p in backbone.parameters())
    calls = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, *_: calls.append(layer))
    backbone(torch.randn(1, 3, 64, 64))
    assert calls == layers


def test_another_backbone_has_none() -> None:
    assert backbone_layers(torch.nn.Conv2d(3, 4, 1)) == []
