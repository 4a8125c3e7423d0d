"""From a configuration to the parts of the model."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from grser.hierarchizer import TIES
from grser.modeling.criterion import MASK_LOSSES
from grser.modeling.efficientnet import EfficientNetTrunk
from grser.modeling.lavt import CLASSES, LAVT, NORMS, LanguageAwareEncoder
from grser.modeling.negative_rejection import POOLINGS, Comparison
from grser.modeling.swin import SWINS, SwinTrunk
from grser.modeling.text import POOLINGS as TEXT_POOLINGS
from grser.modeling.text import ExpressionPairs
from grser.modeling.triphasic_head import KINDS, NONE, TriphasicHead
from grser.settings import GroupSettings

STAGES = (3, 4)


def assemble(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of `GRSer`.

    Raises:
        ValueError: naming a key of MODEL.GRSER that cannot have its value.
    """
    keys = cfg.MODEL.GRSER
    _require(keys, "TRUNK", (*SWINS, "timm"))
    _require(keys, "HEATMAPS", KINDS)
    _require(keys, "FEATURE_STAGE", STAGES)
    _require(keys, "COMPARE_POOLING", POOLINGS)
    _require(keys, "TIES", TIES)
    _require(keys, "DECODER_NORM", NORMS)
    _require(keys.TEXT, "POOLING", TEXT_POOLINGS, "TEXT.")
    _require(keys.LOSS, "MASK", MASK_LOSSES, "LOSS.")
    for key in ("SIZE", "IMAGES_PER_FORWARD", "DECODER_WIDTH", "COMPARE_WIDTH"):
        _require_range(keys, key, 1)
    for key in ("TRIPLET_WEIGHT", "TRIPLET_MARGIN", "MIRROR_WEIGHT", "HEATMAP_WEIGHT"):
        _require_range(keys.LOSS, key, 0, start="LOSS.")
    _require_range(keys, "DROP_PATH", 0, 1)
    if len(keys.LOSS.CLASS_WEIGHTS) != CLASSES or min(keys.LOSS.CLASS_WEIGHTS) < 0:
        raise ValueError(
            f"MODEL.GRSER.LOSS.CLASS_WEIGHTS is {keys.LOSS.CLASS_WEIGHTS}; it has to be two "
            "numbers from 0 on, of background and target"
        )
    text = ExpressionPairs.build(
        keys.TEXT.SOURCE,
        frozen=keys.TEXT.FROZEN,
        max_tokens=keys.TEXT.MAX_TOKENS,
        pooling=keys.TEXT.POOLING,
    )
    trunk = (
        EfficientNetTrunk(cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.TIMM.FREEZE_NORM)
        if keys.TRUNK == "timm"
        else SwinTrunk(keys.TRUNK, keys.DROP_PATH)
    )
    norm = keys.DECODER_NORM
    if norm == "SyncBN" and cfg.MODEL.DEVICE == "cpu":
        norm = "naiveSyncBN"  # Detectron2's, which gloo can do
    lavt = LAVT(LanguageAwareEncoder(trunk, text.width), keys.DECODER_WIDTH, norm)
    head = comparison = None
    if keys.HEATMAPS != NONE:
        width = trunk.widths[keys.FEATURE_STAGE - 1]
        head = TriphasicHead(
            width,
            text.width,
            keys.SIZE,
            kind=keys.HEATMAPS,
            ordered=keys.HIERARCHIZER,
            language_channel=keys.LANGUAGE_CHANNEL,
            ties=keys.TIES,
            shortest=keys.SHORTEST,
        )
        comparison = Comparison(head.channels, text.width, keys.COMPARE_WIDTH, keys.COMPARE_POOLING)
    return {
        "text_encoder": text,
        "lavt": lavt,
        "head": head,
        "comparison": comparison,
        "settings": _settings(keys),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def _settings(keys: CfgNode) -> GroupSettings:
    return GroupSettings(
        feature_level=keys.FEATURE_STAGE - 1,
        mask_loss=keys.LOSS.MASK,
        class_weights=tuple(keys.LOSS.CLASS_WEIGHTS),
        triplet_weight=keys.LOSS.TRIPLET_WEIGHT,
        triplet_margin=keys.LOSS.TRIPLET_MARGIN,
        triplet_negatives=keys.LOSS.TRIPLET_NEGATIVES,
        mirror_weight=keys.LOSS.MIRROR_WEIGHT,
        heatmap_weight=keys.LOSS.HEATMAP_WEIGHT,
        decide=keys.TEST.DECIDE,
        decide_single=keys.TEST.DECIDE_SINGLE,
        margin=keys.TEST.MARGIN,
        soft=keys.TEST.SOFT,
        images_at_once=keys.IMAGES_PER_FORWARD,
    )


def _require(keys: CfgNode, key: str, allowed: tuple[Any, ...], start: str = "") -> None:
    if keys[key] not in allowed:
        said = " or ".join(map(str, allowed))
        raise ValueError(f"MODEL.GRSER.{start}{key} is {keys[key]!r}; it has to be {said}")


def _require_range(
    keys: CfgNode, key: str, least: float, most: float | None = None, start: str = ""
) -> None:
    if keys[key] < least or (most is not None and keys[key] > most):
        said = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"MODEL.GRSER.{start}{key} is {keys[key]}; it has to be {said}")
