"""Backbones for Detectron2's registry: any timm network, and the ViT of HIPIE."""

from hipie.modeling.backbone.timm import TimmBackbone
from hipie.modeling.backbone.vit import ViTPyramid

__all__ = ["TimmBackbone", "ViTPyramid"]
