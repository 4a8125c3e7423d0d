"""Defaults of the keys of `MODEL.PEERS`."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_hipie_peers_config(cfg: CN) -> None:
    """Add `MODEL.PEERS` to a configuration, in place."""
    node = CN()
    # The network: a model of `hipie models list`, a folder in the layout of transformers, or
    # "random:tiny" for a small network with random weights.
    node.SOURCE = ""
    # Score above which a detection or a segment is kept; of CLIPSeg the probability above which a
    # pixel belongs to a class.
    node.THRESHOLD = 0.5
    # Probability above which a pixel belongs to a mask.
    node.MASK_THRESHOLD = 0.5
    # Score above which an instance is kept, of Mask2Former and OneFormer; instances are ranked, so
    # that it is lower than that of panoptic segments.
    node.INSTANCE_THRESHOLD = 0.05
    # Share of its own mask that a segment of the panoptic map must win; those with less are left
    # out.
    node.OVERLAP = 0.8
    # IoU of boxes above which the detection of a class with the lower score is left out; 1 keeps
    # all.
    node.NMS = 0.8
    # GroundingDINO's boxes become masks by this SAM: a name of `hipie models list`, or a type with
    # the file of weights ...
    node.SAM = "sam-vit-h"
    # ... of its authors.
    node.SAM_WEIGHTS = ""
    # Florence-2: number of beams of the search, 1 takes the most likely token each time ...
    node.BEAMS = 3
    # ... and the largest number of tokens of a polygon.
    node.MAX_TOKENS = 1024
    cfg.MODEL.PEERS = node
