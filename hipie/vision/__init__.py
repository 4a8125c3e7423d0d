"""Image encoders as Detectron2 backbones; importing this registers them."""

from hipie.vision.timm_backbone import TimmBackbone

__all__ = ["TimmBackbone"]
