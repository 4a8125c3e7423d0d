"""Backbones for Detectron2's registry: any timm network, Swin transformers, the ViT of HIPIE."""

from hipie.modeling.backbone.swin import SwinBackbone
from hipie.modeling.backbone.timm import TimmBackbone
from hipie.modeling.backbone.vit import ViTPyramid

__all__ = ["SwinBackbone", "TimmBackbone", "ViTPyramid"]
