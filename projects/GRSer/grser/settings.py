"""Numbers that the architecture carries along: losses, the rule, and sizes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GroupSettings:
    """See `MODEL.GRSER` in `grser.config` for the meaning of each.

    Attributes:
        feature_level: position of the map that the group is asked about, 3 = the coarsest.
    """

    feature_level: int = 3
    mask_loss: str = "ce"
    class_weights: tuple[float, float] = (0.9, 1.1)
    triplet_weight: float = 1.0
    triplet_margin: float = 1.0
    triplet_negatives: bool = True
    mirror_weight: float = 1.0
    heatmap_weight: float = 0.0
    decide: bool = True
    decide_single: bool = False
    margin: float = 0.0
    soft: bool = False
    images_at_once: int = 8
