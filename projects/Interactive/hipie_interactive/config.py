"""Defaults of all keys of `MODEL.INTERACTIVE`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_interactive_config(cfg: CN) -> None:
    """Add `MODEL.INTERACTIVE` to a configuration, in place."""
    node = CN()
    # SAM's type: "vit_b", "vit_l" or "vit_h"; with the prefix "random:", or "random:tiny", its
    # weights are random.
    node.SAM = "vit_b"
    # Checkpoint file of SAM's authors for that type.
    node.WEIGHTS = ""
    # Clicks of the simulated user on each object; also the count of an object that never reaches
    # the IoU of NoC.
    node.CLICKS = 20
    # Prompts of the simulated user: "clicks", "scribbles", "boxes" (and then clicks) or "polygons"
    # (and then clicks); CLICKS counts all of them.
    node.PROMPTS = "clicks"
    # "boxes": each side is moved by up to this share of the box's extent, in or out.
    node.BOX_JITTER = 0.1
    # "polygons": largest number of vertices.
    node.POLYGON_VERTICES = 8
    cfg.MODEL.INTERACTIVE = node
