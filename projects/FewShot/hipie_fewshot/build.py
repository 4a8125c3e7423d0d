"""The methods by name, built from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from detectron2.config import CfgNode

from hipie.modeling.open_vocabulary.error import unknown
from hipie.modeling.sam.predictor import Sam
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.mask_proposals import ProposalSettings
from hipie_fewshot.modeling.mask_selection import SelectionSettings
from hipie_fewshot.modeling.matcher import Matcher
from hipie_fewshot.modeling.persam import PerSam
from hipie_fewshot.modeling.persam_f import PerSamF
from hipie_fewshot.modeling.prototype import Found, Prototype
from hipie_fewshot.support_set import Example

METHODS = ("prototype", "persam", "persam_f", "matcher")


class Method(Protocol):
    """Finds what examples show."""

    def find(self, image: np.ndarray, examples: Sequence[Example]) -> Found:
        """The examples' object in an image [H, W, 3]."""


def build_method(cfg: CfgNode) -> Method:
    """The method that `MODEL.FEWSHOT.METHOD` names, with its models.

    Raises:
        ValueError: for an unknown name, with near ones; or weights that cannot be loaded.
    """
    keys = cfg.MODEL.FEWSHOT
    if keys.METHOD == "prototype":
        return Prototype(_dino(keys), keys.PROTOTYPE.BACKGROUND)
    if keys.METHOD == "persam":
        return PerSam(Sam.from_source(keys.SAM, keys.SAM_WEIGHTS), keys.PERSAM.STRETCHED_GUIDANCE)
    if keys.METHOD == "persam_f":
        sam = Sam.from_source(keys.SAM, keys.SAM_WEIGHTS)
        return PerSamF(sam, keys.PERSAM.STEPS, keys.PERSAM.RATE)
    if keys.METHOD != "matcher":
        raise unknown("few-shot method", keys.METHOD, METHODS)
    own = keys.MATCHER
    return Matcher(
        _dino(keys),
        Sam.from_source(keys.SAM, keys.SAM_WEIGHTS),
        ProposalSettings(
            points=tuple(own.POINTS),
            draws=own.DRAWS,
            centres=own.CENTRES,
            grid=own.GRID,
            three_masks=own.THREE_MASKS,
            quality=own.QUALITY,
            grid_quality=own.GRID_QUALITY,
            stability=own.STABILITY,
            grid_stability=own.GRID_STABILITY,
            nms=own.NMS,
        ),
        SelectionSettings(
            score=tuple(own.SCORE),
            purity=own.PURITY,
            distance=own.DISTANCE,
            relative_distance=own.RELATIVE_DISTANCE,
            merged=own.MERGED,
        ),
        keys.EPISODES.SEED,
    )


def _dino(keys: CfgNode) -> Dino:
    return Dino.from_source(keys.DINO, keys.DINO_WEIGHTS, keys.SIZE)
