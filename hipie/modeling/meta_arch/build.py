"""Construction of HIPIE's modules from a configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_backbone

# Criteria, matchers and losses register themselves on import.
import hipie.modeling.criterion.stuff_criterion
import hipie.modeling.criterion.thing_criterion  # noqa: F401
from hipie.config.conflicts import check_conflicts
from hipie.errors import InputError
from hipie.modeling.activation_checkpointing import checkpointed_parts
from hipie.modeling.criterion.build import build_criterion
from hipie.modeling.fusion.bidirectional_attention import FusionConfig
from hipie.modeling.heads.pixel_class_head import PixelClassHead
from hipie.modeling.meta_arch.inputs import InputConfig
from hipie.modeling.open_vocabulary.error import missing_package
from hipie.modeling.pixel_decoder.multi_scale_features import level_strides
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.modeling.text_encoder.base import build_text_encoder
from hipie.modeling.transformer_decoder.denoising import DenoisingConfig
from hipie.modeling.transformer_decoder.layers import TransformerConfig
from hipie.modeling.transformer_decoder.maskdino_decoder import StuffBranch
from hipie.modeling.transformer_decoder.thing_decoder import MIN_MASK_STRIDE, ThingBranch

if TYPE_CHECKING:
    from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble
    from hipie.modeling.open_vocabulary.imagenet_naming import ImageNetNaming

MIN_STRIDE = 4


@dataclass(frozen=True)
class StuffSettings:
    """What the stuff decoder is trained on and compared with.

    Attributes:
        supervise_things: whether its targets are things as well.
        fused_text: whether its class heads read the text after an early fusion.
    """

    supervise_things: bool = True
    fused_text: bool = True


@dataclass(frozen=True)
class PixelHeadSettings:
    """Weights of the pixel class head.

    Attributes:
        only: whether nothing else has losses in the training on vocabularies.
        only_reads_masks: whether the head then reads mask features, which are not trained.
        loss, dice: of its losses.
        masks, semantic: of its scores beside those of queries, see
            `hipie.modeling.postprocessing.pixel_scores`.
    """

    only: bool = False
    only_reads_masks: bool = False
    loss: float = 1.0
    dice: float = 0.0
    masks: float = 0.5
    semantic: float = 0.5


def hipie_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of `HIPIE` from `MODEL.HIPIE` and Detectron2's keys.

    Raises:
        ConfigError: for keys that exclude each other; see `hipie.config.conflicts`.
        InputError: for features that the backbone does not have.
    """
    check_conflicts(cfg)
    node = cfg.MODEL.HIPIE
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    check_features(cfg, shapes)
    levels = [shapes[name] for name in node.IN_FEATURES]
    channels = [level.channels for level in levels]
    lateral = node.STUFF.LATERAL_FEATURE
    # Strides of the mask features of stuff and of things.
    all_strides = level_strides([level.stride for level in levels], node.NUM_FEATURE_LEVELS)
    strides = {
        shapes[lateral].stride if lateral else levels[0].stride,
        next(stride for stride in all_strides if stride >= MIN_MASK_STRIDE),
    }
    text_encoder = build_text_encoder(cfg)
    stuff = None
    if node.STUFF.ENABLED:
        stuff = StuffBranch(
            channels,
            text_encoder.width,
            transformer_config(cfg, "STUFF"),
            denoising_config(cfg, "STUFF"),
            finest_stride=levels[0].stride,
            num_levels=node.NUM_FEATURE_LEVELS,
            lateral=shapes[lateral] if lateral else None,
            fusion=stuff_fusion_config(cfg),
        )
    return {
        "backbone": backbone,
        "text_encoder": text_encoder,
        "things": ThingBranch(
            channels,
            text_encoder.width,
            transformer_config(cfg, "THINGS"),
            fusion_config(cfg),
            denoising_config(cfg, "THINGS"),
            num_background_queries=node.THINGS.NUM_BACKGROUND_QUERIES,
            mask_channels=node.THINGS.MASK_CHANNELS,
            strides=[level.stride for level in levels],
            num_levels=node.NUM_FEATURE_LEVELS,
            dot_product_masks=node.THINGS.MASK_HEAD == "dot_product",
            predicts_iou=node.THINGS.IOU_HEAD,
        ),
        "stuff": stuff,
        "thing_criterion": build_criterion(node.LOSS.THING_CRITERION, cfg),
        "stuff_criterion": build_criterion(node.LOSS.STUFF_CRITERION, cfg),
        "stuff_settings": StuffSettings(node.STUFF.SUPERVISE_THINGS, node.STUFF.FUSED_TEXT),
        "pixel_head": (
            PixelClassHead(
                channels,
                node.HIDDEN_DIM,
                text_encoder.width,
                node.PIXEL_HEAD.STRIDE,
                node.PIXEL_HEAD.CONTEXT,
            )
            if node.PIXEL_HEAD.ENABLED
            else None
        ),
        "pixel_settings": pixel_head_settings(cfg),
        "settings": inference_settings(cfg),
        "input_config": input_config(cfg, required_divisibility(backbone, strides)),
        "in_features": node.IN_FEATURES,
        "lateral_feature": lateral if stuff is not None else "",
        "propagate_part_to_whole": node.LOSS.PROPAGATE_PART_TO_WHOLE,
        "average_normalizers": node.LOSS.AVERAGE_NORMALIZERS,
        "clip_ensemble": build_clip_ensemble(cfg) if node.CLIP.ENABLED else None,
        "naming": build_naming(cfg) if node.IMAGENET.ENABLED else None,
        "checkpointed_parts": checkpointed_parts(cfg),
    }


def pixel_head_settings(cfg: CfgNode) -> PixelHeadSettings:
    """Settings of the pixel class head.

    Raises:
        InputError: if a weight beside the queries' scores is not in 0..1.
    """
    node = cfg.MODEL.HIPIE.PIXEL_HEAD
    for key in ("MASK_WEIGHT", "SEMANTIC_WEIGHT"):
        if not 0 <= node[key] <= 1:
            raise InputError(f"MODEL.HIPIE.PIXEL_HEAD.{key} must be in 0 to 1, not {node[key]}")
    return PixelHeadSettings(
        only=node.ONLY,
        only_reads_masks=node.ONLY_READS_MASKS,
        loss=node.LOSS_WEIGHT,
        dice=node.DICE_WEIGHT,
        masks=node.MASK_WEIGHT,
        semantic=node.SEMANTIC_WEIGHT,
    )


def transformer_config(cfg: CfgNode, branch: str) -> TransformerConfig:
    """Transformer sizes of a branch, "THINGS" or "STUFF"."""
    node = cfg.MODEL.HIPIE[branch]
    return TransformerConfig(
        width=cfg.MODEL.HIPIE.HIDDEN_DIM,
        num_queries=node.NUM_QUERIES,
        encoder_layers=node.ENCODER_LAYERS,
        decoder_layers=node.DECODER_LAYERS,
        num_heads=node.NUM_HEADS,
        num_points=node.NUM_POINTS,
        dim_feedforward=node.DIM_FEEDFORWARD,
    )


def denoising_config(cfg: CfgNode, branch: str) -> DenoisingConfig:
    """Denoising of a branch, "THINGS" or "STUFF"."""
    node = cfg.MODEL.HIPIE[branch]
    return DenoisingConfig(
        num_queries=node.DENOISING_QUERIES,
        noise=node.get("DENOISING_NOISE", 0.0),
        official_frames=cfg.MODEL.HIPIE.LOSS.OFFICIAL_BOX_FRAMES,
    )


def fusion_config(cfg: CfgNode) -> FusionConfig | None:
    """Sizes of the early fusion, or None if it is off."""
    node = cfg.MODEL.HIPIE.THINGS
    if not node.EARLY_FUSION:
        return None
    return FusionConfig(
        node.FUSION_EMBED_DIM, node.FUSION_HEADS, node.FUSION_DROPOUT, tuple(node.FUSION_LAYERS)
    )


def stuff_fusion_config(cfg: CfgNode) -> FusionConfig | None:
    """Sizes of the stuff decoder's early fusion, those of things; None if it is off."""
    node = cfg.MODEL.HIPIE.THINGS
    if not cfg.MODEL.HIPIE.STUFF.EARLY_FUSION:
        return None
    return FusionConfig(node.FUSION_EMBED_DIM, node.FUSION_HEADS, node.FUSION_DROPOUT)


def required_divisibility(backbone: Backbone, mask_strides: set[int]) -> int:
    """Divisor of image sides that the backbone needs, and that makes masks of one size.

    Args:
        backbone: with `size_divisibility`.
        mask_strides: of the mask features of both branches. Mask features of different strides,
            each rounded up, give masks of different sizes unless the sides are multiples of both.
    """
    own = max(backbone.size_divisibility, 1)
    return math.lcm(own, *mask_strides) if len(mask_strides) > 1 else own


def check_features(cfg: CfgNode, shapes: Mapping[str, ShapeSpec]) -> None:
    """Check that the backbone has the features that the decoders are to read.

    Args:
        cfg: reads MODEL.HIPIE.{IN_FEATURES, NUM_FEATURE_LEVELS, STUFF.LATERAL_FEATURE}.
        shapes: outputs of the backbone.

    Raises:
        InputError: naming the key.
    """
    node = cfg.MODEL.HIPIE
    names, lateral = list(node.IN_FEATURES), node.STUFF.LATERAL_FEATURE
    if not names:
        raise InputError("MODEL.HIPIE.IN_FEATURES is empty")
    for key, name in (
        *(("IN_FEATURES", name) for name in names),
        *((("STUFF.LATERAL_FEATURE", lateral),) if lateral else ()),
    ):
        if name not in shapes:
            raise InputError(
                f'MODEL.HIPIE.{key} names "{name}"; {cfg.MODEL.BACKBONE.NAME} has the outputs '
                f"{', '.join(shapes)}"
            )
    strides = [shapes[name].stride for name in ([lateral] if lateral else []) + names]
    if any(coarse <= fine for fine, coarse in pairwise(strides)):
        raise InputError(
            f"MODEL.HIPIE.STUFF.LATERAL_FEATURE and IN_FEATURES have the strides {strides}; "
            "they have to be in order, the finest first"
        )
    if any(stride < MIN_STRIDE or stride & (stride - 1) for stride in strides):
        raise InputError(
            f"MODEL.HIPIE.IN_FEATURES has the strides {strides}; they have to be powers of two, "
            f"at least {MIN_STRIDE}"
        )
    # The mask features of things are of a coarser level than the finest possible one.
    fewest = max(len(names), 2 if strides[-1] == MIN_STRIDE else 1)
    if fewest > node.NUM_FEATURE_LEVELS:
        raise InputError(
            f"MODEL.HIPIE.NUM_FEATURE_LEVELS is {node.NUM_FEATURE_LEVELS}; it has to be at least "
            f"{fewest} with IN_FEATURES {tuple(names)}"
        )


def input_config(cfg: CfgNode, size_divisibility: int = 0) -> InputConfig:
    """Normalisation, padding and default vocabularies.

    Args:
        cfg: reads MODEL and DATASETS.
        size_divisibility: divisor of image sides that the backbone needs, in training and at test;
            0 or 1 = none.
    """
    node = cfg.MODEL.HIPIE
    train, test = cfg.DATASETS.TRAIN, cfg.DATASETS.TEST
    return InputConfig(
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        pixel_std=tuple(cfg.MODEL.PIXEL_STD),
        size_divisibility=node.SIZE_DIVISIBILITY,
        pad_at_test=node.PAD_AT_TEST,
        backbone_divisibility=size_divisibility,
        image_format=cfg.INPUT.FORMAT,
        train_dataset=train[0] if len(train) else "",
        test_dataset=test[0] if len(test) else "",
    )


def inference_settings(cfg: CfgNode) -> InferenceSettings:
    """Requested results and thresholds of inference."""
    node = cfg.MODEL.HIPIE
    test = node.TEST
    return InferenceSettings(
        instance_on=test.INSTANCE_ON,
        semantic_on=test.SEMANTIC_ON,
        panoptic_on=test.PANOPTIC_ON,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        token_pooling=test.TOKEN_POOLING,
        nms_threshold=test.NMS_THRESHOLD,
        temperature=test.TEMPERATURE,
        min_softmax_classes=test.MIN_SOFTMAX_CLASSES,
        object_mask_threshold=node.OBJECT_MASK_THRESHOLD,
        overlap_threshold=node.OVERLAP_THRESHOLD,
        thing_scores_from_stuff_decoder=test.THING_SCORES_FROM_STUFF_DECODER,
        panoptic_from_stuff_decoder_only=test.PANOPTIC_FROM_STUFF_DECODER_ONLY,
        consistent_parts=test.CONSISTENT_PARTS,
        unfused_expression_features=test.UNFUSED_EXPRESSION_FEATURES,
        no_target_threshold=_no_target_threshold(test.NO_TARGET),
    )


def _no_target_threshold(value: float) -> float:
    """Check `MODEL.HIPIE.TEST.NO_TARGET`.

    Raises:
        InputError: if it is no score.
    """
    if not 0 <= value <= 1:
        raise InputError(f"MODEL.HIPIE.TEST.NO_TARGET must be in 0 to 1 (0: off), not {value}")
    return float(value)


def build_clip_ensemble(cfg: CfgNode) -> ClipEnsemble:
    """CLIP ensemble of `MODEL.HIPIE.CLIP`.

    Raises:
        OpenVocabularyError: if open_clip is not installed.
    """
    from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble

    try:
        import open_clip  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_package("MODEL.HIPIE.CLIP", "open_clip_torch", "clip") from error
    return ClipEnsemble.from_config(cfg)


def build_naming(cfg: CfgNode) -> ImageNetNaming:
    """Combination with a classifier of `MODEL.HIPIE.IMAGENET`."""
    from hipie.modeling.open_vocabulary.imagenet_naming import ImageNetNaming

    return ImageNetNaming.from_config(cfg)
