"""Image encoders as Detectron2 backbones; importing this registers them."""

from hipie.modeling.backbone.timm import TimmBackbone
from hipie.modeling.backbone.vit import ViTPyramid

__all__ = ["TimmBackbone", "ViTPyramid"]
