"""Layers of a backbone that are called one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from detectron2.modeling import Backbone
from detectron2.modeling.backbone import ResNet, SwinTransformer, ViT
from torch import nn

from hipie.modeling.backbone.timm import TimmBackbone


def backbone_layers(backbone: Backbone) -> list[nn.Module]:
    """Return the blocks of a ViT, ResNet or Swin transformer, or the stages of a timm network.

    Args:
        backbone: of `BACKBONE_REGISTRY`.

    Returns:
        Modules in the order of the forward pass, which are called and whose parameters no other
        module reads; [] for other backbones.
    """
    if isinstance(backbone, ViT):
        return list(backbone.blocks)
    if isinstance(backbone, ResNet):
        return [block for stage in backbone.stages for block in stage]
    if isinstance(backbone, SwinTransformer):
        return [block for layer in backbone.layers for block in layer.blocks]
    if isinstance(backbone, TimmBackbone):
        return [layer for layer in _timm_layers(backbone.net) if _has_parameters(layer)]
    return []


def _timm_layers(net: nn.Module) -> Iterator[nn.Module]:
    """Yield the children of a timm network, and of its children that are sequences."""
    for child in net.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from child
        else:
            yield child


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
