"""Every key of `MODEL.INTERACTIVE`, its default, and what it means."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_interactive_config(cfg: CN) -> None:
    """Add `MODEL.INTERACTIVE` to a configuration, in place."""
    node = CN()
    # "vit_b", "vit_l" or "vit_h"; "random:" before it, or "random:tiny": random weights, to try
    # the machinery out.
    node.SAM = "vit_b"
    # The file that SAM's authors publish for that type.
    node.WEIGHTS = ""
    # How often the simulated user clicks on an object; one that never gets good enough counts as
    # so many clicks.
    node.CLICKS = 20
    cfg.MODEL.INTERACTIVE = node
