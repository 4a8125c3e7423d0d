"""Few-shot methods by name, built from a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.error import unknown_name
from hipie.modeling.sam.predictor import Sam
from hipie_fewshot.modeling.clip_features import ClipPatches
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.mask_proposals import ProposalSettings
from hipie_fewshot.modeling.mask_selection import SelectionSettings
from hipie_fewshot.modeling.matcher import Matcher
from hipie_fewshot.modeling.method import FewShotMethod
from hipie_fewshot.modeling.persam import PerSam
from hipie_fewshot.modeling.persam_f import PerSamF
from hipie_fewshot.modeling.prototype import Prototype


def build_method(cfg: CfgNode) -> FewShotMethod[Any]:
    """Build the method that `MODEL.FEWSHOT.METHOD` names, with its networks.

    Raises:
        ValueError: for an unknown name, with similar ones; or weights that cannot be loaded.
    """
    node = cfg.MODEL.FEWSHOT
    if node.METHOD not in METHODS:
        raise unknown_name("few-shot method", node.METHOD, tuple(METHODS))
    return METHODS[node.METHOD](node)


def _build_prototype(node: CfgNode) -> Prototype:
    return Prototype(_build_dino(node), node.PROTOTYPE.BACKGROUND)


def _build_clip_prototype(node: CfgNode) -> Prototype:
    clip = Clip.from_source(node.CLIP.MODEL, node.CLIP.WEIGHTS)
    return Prototype(ClipPatches(clip, node.SIZE), node.PROTOTYPE.BACKGROUND)


def _build_persam(node: CfgNode) -> PerSam:
    return PerSam(_build_sam(node), node.PERSAM.STRETCHED_GUIDANCE)


def _build_persam_f(node: CfgNode) -> PerSamF:
    return PerSamF(_build_sam(node), node.PERSAM.STEPS, node.PERSAM.RATE)


def _build_matcher(node: CfgNode) -> Matcher:
    keys = node.MATCHER
    if len(keys.POINTS) != 2 or not 1 <= keys.POINTS[0] <= keys.POINTS[1]:
        raise InputError(
            f"MODEL.FEWSHOT.MATCHER.POINTS is {keys.POINTS}; it has to be two numbers of points of "
            "at least 1, the smaller one first"
        )
    proposals = ProposalSettings(
        points=tuple(keys.POINTS),
        draws=keys.DRAWS,
        centres=keys.CENTRES,
        grid=keys.GRID,
        three_masks=keys.THREE_MASKS,
        quality=keys.QUALITY,
        grid_quality=keys.GRID_QUALITY,
        stability=keys.STABILITY,
        grid_stability=keys.GRID_STABILITY,
        nms=keys.NMS,
    )
    selection = SelectionSettings(
        score=tuple(keys.SCORE),
        purity=keys.PURITY,
        distance=keys.DISTANCE,
        relative_distance=keys.RELATIVE_DISTANCE,
        merged=keys.MERGED,
    )
    return Matcher(
        _build_dino(node), _build_sam(node), proposals, selection, seed=node.EPISODES.SEED
    )


def _build_dino(node: CfgNode) -> Dino:
    return Dino.from_source(node.DINO, node.DINO_WEIGHTS, node.SIZE)


def _build_sam(node: CfgNode) -> Sam:
    return Sam.from_source(node.SAM, node.SAM_WEIGHTS)


METHODS: dict[str, Callable[[CfgNode], FewShotMethod[Any]]] = {
    "prototype": _build_prototype,
    "clip_prototype": _build_clip_prototype,
    "persam": _build_persam,
    "persam_f": _build_persam_f,
    "matcher": _build_matcher,
}
