"""Construction of GRSer's modules from a configuration."""

from __future__ import annotations

from typing import Any, NoReturn

from detectron2.config import CfgNode

from grser.hierarchizer import BOTH, BY_DIFFERENCE, POSITIVE, RANKS, TIES
from grser.modeling.criterion import MASK_LOSSES, GroupCriterion, LossConfig
from grser.modeling.efficientnet import EfficientNetBackbone
from grser.modeling.lavt import LAVT, NORMS, NUM_CLASSES, LanguageAwareEncoder
from grser.modeling.negative_rejection import POOLINGS, NegativeRejectionHead
from grser.modeling.swin import SWIN_VARIANTS, SwinBackbone
from grser.modeling.text import POOLINGS as TEXT_POOLINGS
from grser.modeling.text import ExpressionEncoder
from grser.modeling.triphasic_head import HEATMAP_KINDS, NONE, HeatmapConfig, TriphasicHead
from grser.postprocessing import InferenceConfig
from hipie.errors import InputError
from hipie.modeling.activation_checkpointing import checkpointed_parts

FEATURE_STAGES = (3, 4)


def build_components(cfg: CfgNode) -> dict[str, Any]:
    """Build the constructor arguments of `GRSer`.

    Raises:
        ValueError: naming a key of MODEL.GRSER with an invalid value.
    """
    keys = cfg.MODEL.GRSER
    _check_keys(keys)
    text_encoder = ExpressionEncoder.build(
        keys.TEXT.SOURCE,
        frozen=keys.TEXT.FROZEN,
        max_tokens=keys.TEXT.MAX_TOKENS,
        pooling=keys.TEXT.POOLING,
        anti_prefix=keys.TEXT.ANTI_PREFIX,
    )
    backbone = _build_backbone(cfg)
    norm = keys.DECODER_NORM
    if norm == "SyncBN" and cfg.MODEL.DEVICE == "cpu":
        norm = "naiveSyncBN"  # Detectron2's implementation, which supports gloo
    lavt = LAVT(LanguageAwareEncoder(backbone, text_encoder.width), keys.DECODER_WIDTH, norm)
    triphasic_head = rejection_head = None
    if keys.HEATMAPS != NONE:
        width = backbone.widths[keys.FEATURE_STAGE - 1]
        triphasic_head = TriphasicHead(width, text_encoder.width, _heatmap_config(keys))
    if triphasic_head is not None and keys.LOSS.TRIPLET_WEIGHT:
        rejection_head = NegativeRejectionHead(
            triphasic_head.channels,
            text_encoder.width,
            keys.REJECTION_WIDTH,
            keys.REJECTION_POOLING,
        )
    return {
        "text_encoder": text_encoder,
        "lavt": lavt,
        "triphasic_head": triphasic_head,
        "rejection_head": rejection_head,
        "criterion": GroupCriterion(_loss_config(keys)),
        "inference_config": _inference_config(keys),
        "feature_level": keys.FEATURE_STAGE - 1,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "checkpointed_parts": checkpointed_parts(cfg),
    }


def _build_backbone(cfg: CfgNode) -> SwinBackbone | EfficientNetBackbone:
    keys = cfg.MODEL.GRSER
    if keys.BACKBONE == "timm":
        timm = cfg.MODEL.TIMM
        return EfficientNetBackbone(timm.NAME, timm.WEIGHTS, timm.FREEZE_NORM)
    return SwinBackbone(keys.BACKBONE, keys.DROP_PATH)


def _heatmap_config(keys: CfgNode) -> HeatmapConfig:
    return HeatmapConfig(
        group_size=keys.GROUP_SIZE,
        kind=keys.HEATMAPS,
        hierarchizer=keys.HIERARCHIZER,
        language_channel=keys.LANGUAGE_CHANNEL,
        ties=keys.TIES,
        ranks=keys.RANKS,
        eps=keys.NORM_EPS,
    )


def _loss_config(keys: CfgNode) -> LossConfig:
    return LossConfig(
        mask_loss=keys.LOSS.MASK,
        class_weights=tuple(keys.LOSS.CLASS_WEIGHTS),
        triplet_weight=keys.LOSS.TRIPLET_WEIGHT,
        triplet_margin=keys.LOSS.TRIPLET_MARGIN,
        triplet_negatives=keys.LOSS.TRIPLET_NEGATIVES,
        mirror_weight=keys.LOSS.MIRROR_WEIGHT,
        heatmap_weight=keys.LOSS.HEATMAP_WEIGHT,
    )


def _inference_config(keys: CfgNode) -> InferenceConfig:
    return InferenceConfig(
        reject_negatives=keys.TEST.REJECT_NEGATIVES,
        reject_single_images=keys.TEST.REJECT_SINGLE_IMAGES,
        margin=keys.LOSS.TRIPLET_MARGIN if keys.TEST.MARGIN is None else keys.TEST.MARGIN,
        soft_masks=keys.TEST.SOFT_MASKS,
        return_heatmaps=keys.TEST.HEATMAPS,
        images_per_forward=keys.IMAGES_PER_FORWARD,
    )


def _check_keys(keys: CfgNode) -> None:
    _check_choice(keys, "BACKBONE", (*SWIN_VARIANTS, "timm"))
    _check_choice(keys, "HEATMAPS", HEATMAP_KINDS)
    _check_choice(keys, "FEATURE_STAGE", FEATURE_STAGES)
    _check_choice(keys, "REJECTION_POOLING", POOLINGS)
    _check_choice(keys, "TIES", TIES)
    _check_choice(keys, "RANKS", RANKS)
    _check_choice(keys, "DECODER_NORM", NORMS)
    _check_choice(keys.TEXT, "POOLING", TEXT_POOLINGS, "TEXT.")
    _check_choice(keys.LOSS, "MASK", MASK_LOSSES, "LOSS.")
    for key in ("GROUP_SIZE", "IMAGES_PER_FORWARD", "DECODER_WIDTH", "REJECTION_WIDTH"):
        _check_range(keys, key, 1)
    for key in ("TRIPLET_WEIGHT", "TRIPLET_MARGIN", "MIRROR_WEIGHT", "HEATMAP_WEIGHT"):
        _check_range(keys.LOSS, key, 0, prefix="LOSS.")
    _check_range(keys, "DROP_PATH", 0, 1)
    _check_conflicts(keys)
    weights = keys.LOSS.CLASS_WEIGHTS
    if len(weights) != NUM_CLASSES or min(weights) < 0:
        raise InputError(
            f"MODEL.GRSER.LOSS.CLASS_WEIGHTS is {weights}; it has to be two non-negative numbers, "
            "the weights of background and target"
        )


def _check_conflicts(keys: CfgNode) -> None:
    """Check keys that exclude each other.

    Raises:
        ValueError: naming both.
    """
    is_sorted = _heatmap_config(keys).is_sorted
    for key, default in (("RANKS", BOTH), ("TIES", BY_DIFFERENCE)):
        if keys[key] != default and not is_sorted:
            sorting = ("HEATMAPS", keys.HEATMAPS) if keys.HIERARCHIZER else ("HIERARCHIZER", False)
            _refuse(key, keys[key], *sorting, "there are no heatmaps to be sorted")
    if not keys.LOSS.TRIPLET_WEIGHT and keys.TEST.REJECT_SINGLE_IMAGES:
        reason = "the comparison that rejects images is not trained"
        _refuse("TEST.REJECT_SINGLE_IMAGES", True, "LOSS.TRIPLET_WEIGHT", 0, reason)
    if keys.TEST.HEATMAPS and keys.HEATMAPS == NONE:
        _refuse("TEST.HEATMAPS", True, "HEATMAPS", NONE, "there are no heatmaps to be returned")
    if keys.HEATMAPS == NONE:
        return
    if keys.LOSS.HEATMAP_WEIGHT and not keys.LOSS.MIRROR_WEIGHT:
        reason = "the loss on the heatmaps compares the passes of mirror training"
        _refuse("LOSS.HEATMAP_WEIGHT", keys.LOSS.HEATMAP_WEIGHT, "LOSS.MIRROR_WEIGHT", 0, reason)
    if keys.TEXT.ANTI_PREFIX:
        return
    reason = "there is no anti-expression"
    if is_sorted and keys.RANKS != POSITIVE:
        _refuse("RANKS", keys.RANKS, "TEXT.ANTI_PREFIX", "", reason)
    for key in ("TRIPLET_WEIGHT", "MIRROR_WEIGHT"):
        if keys.LOSS[key]:
            _refuse(f"LOSS.{key}", keys.LOSS[key], "TEXT.ANTI_PREFIX", "", reason)


def _refuse(key: str, value: Any, other: str, other_value: Any, reason: str) -> NoReturn:
    raise InputError(
        f"MODEL.GRSER.{key} is {value!r}, but MODEL.GRSER.{other} is {other_value!r}: {reason}"
    )


def _check_choice(keys: CfgNode, key: str, choices: tuple[Any, ...], prefix: str = "") -> None:
    if keys[key] not in choices:
        allowed = " or ".join(map(str, choices))
        raise InputError(f"MODEL.GRSER.{prefix}{key} is {keys[key]!r}; it has to be {allowed}")


def _check_range(
    keys: CfgNode, key: str, minimum: float, maximum: float | None = None, prefix: str = ""
) -> None:
    value = keys[key]
    if value < minimum or (maximum is not None and value > maximum):
        limits = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise InputError(f"MODEL.GRSER.{prefix}{key} is {value}; it has to be {limits}")
