"""Image encoders as Detectron2 backbones; importing this registers them."""

from hipie.vision.timm_backbone import TimmBackbone
from hipie.vision.vit_pyramid import ViTPyramid

__all__ = ["TimmBackbone", "ViTPyramid"]
