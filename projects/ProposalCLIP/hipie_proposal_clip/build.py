"""Construction of `ProposalCLIP` from a configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone
from torch import nn

# Criteria register themselves on import.
import hipie.modeling.criterion.stuff_criterion  # noqa: F401
from hipie.errors import InputError
from hipie.modeling.criterion.build import build_criterion
from hipie.modeling.meta_arch.build import (
    check_features,
    denoising_config,
    inference_settings,
    input_config,
    required_divisibility,
    transformer_config,
)
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_ensemble import ScoreEnsemble
from hipie.modeling.open_vocabulary.prompt_templates import prompt_templates
from hipie.modeling.pixel_decoder.maskdino_pixel_decoder import MaskDINOPixelDecoder
from hipie.modeling.transformer_decoder.maskdino_decoder import StuffBranch
from hipie_proposal_clip.modeling.conv_clip import STRIDE, ConvClip
from hipie_proposal_clip.modeling.in_vocabulary_head import InVocabularyHead
from hipie_proposal_clip.modeling.mask2former_decoder import Mask2FormerGenerator
from hipie_proposal_clip.modeling.mask_encoders import (
    CLASS_TOKEN,
    DENSE,
    MASK_FEATURES,
    build_mask_prompts,
)
from hipie_proposal_clip.modeling.proposals import build_proposals

DECODERS = ("maskdino", "mask2former")
SOURCES = (*DECODERS, "sam", "kmeans", "hipie")
DECODER, CLIP_ENCODER, MASK_PROMPTS = "decoder", "clip", "mask_prompts"
TRAINED_PARTS = (DECODER, CLIP_ENCODER, MASK_PROMPTS)
KEYS = "MODEL.PROPOSAL_CLIP"
PUBLISHED_ENSEMBLE = ScoreEnsemble(alpha=(0.4, 0.4), beta=(0.8, 0.8))


@dataclass(frozen=True)
class ClassificationSettings:
    """Classification of masks.

    Attributes:
        mask_features: "dense", "crops" or "class_token", see `MODEL.PROPOSAL_CLIP.MASK_FEATURES`.
        templates: prompt templates of the names.
        ensemble: formula and weights of the geometric ensemble.
        train_vocabulary: name of the vocabulary whose classes count as seen in training.
        valid_masks_only: whether CLIP is left out for masks without pixels.
        normalized: see `geometric_ensemble`.
        crop_threshold: mask probability above which a pixel belongs to a crop.
        max_crops: of an image in training.
    """

    mask_features: str = DENSE
    templates: str = "vild"
    ensemble: ScoreEnsemble = PUBLISHED_ENSEMBLE
    train_vocabulary: str = "coco_panoptic"
    valid_masks_only: bool = False
    normalized: bool = True
    crop_threshold: float = 0.4
    max_crops: int = 32


def model_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Constructor arguments of `ProposalCLIP`.

    Raises:
        InputError: for values that are not among those of a key, or that exclude each other.
    """
    keys = cfg.MODEL.PROPOSAL_CLIP
    _check_choices(cfg)
    clip = Clip.from_source(keys.CLIP.MODEL, keys.CLIP.WEIGHTS)
    has_decoder = keys.MASKS in DECODERS
    shared = has_decoder and keys.SHARED_BACKBONE
    conv = None
    clusters_stages = keys.MASKS == "kmeans" and not clip.supports_mask_pooling
    if shared or keys.MASK_FEATURES == DENSE or clusters_stages:
        conv = ConvClip(clip.visual, keys.CLIP.MODEL)
    if keys.MASK_FEATURES == CLASS_TOKEN:
        clip.require_mask_pooling()
    arguments = {
        "clip": clip,
        "conv": conv,
        "mask_prompts": build_mask_prompts(clip, keys.MASK_PROMPT_DEPTH, keys.MASK_FEATURES),
        "proposals": build_proposals(cfg, clip, conv),
        "classification": _classification_settings(cfg),
        "settings": inference_settings(cfg),
        "input_config": input_config(cfg),
        "trained_part": keys.TRAIN,
        "bgr": cfg.INPUT.FORMAT == "BGR",
    }
    return arguments | (_decoder_arguments(cfg, clip, conv) if has_decoder else {})


def _decoder_arguments(cfg: CfgNode, clip: Clip, conv: ConvClip | None) -> dict[str, Any]:
    """Arguments of the decoder, its backbone and its criterion."""
    node, keys = cfg.MODEL.HIPIE, cfg.MODEL.PROPOSAL_CLIP
    backbone: Backbone | None = None
    settings = input_config(cfg, STRIDE)
    if keys.SHARED_BACKBONE and conv is not None:
        shapes = conv.output_shape()
        settings = replace(
            settings,
            pixel_mean=tuple(255 * value for value in clip.visual.image_mean),
            pixel_std=tuple(255 * value for value in clip.visual.image_std),
        )
    else:
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        settings = input_config(cfg, required_divisibility(backbone, set()))
    check_features(cfg, shapes)
    return {
        "backbone": backbone,
        "generator": _build_generator(cfg, clip, shapes),
        "in_vocabulary_head": InVocabularyHead(node.HIDDEN_DIM, clip.width),
        "criterion": build_criterion(node.LOSS.STUFF_CRITERION, cfg),
        "input_config": settings,
        "in_features": tuple(node.IN_FEATURES),
        "lateral_feature": node.STUFF.LATERAL_FEATURE,
    }


def _build_generator(cfg: CfgNode, clip: Clip, shapes: dict[str, Any]) -> nn.Module:
    """Build the mask decoder, of the sizes of `MODEL.HIPIE.STUFF`."""
    node, keys = cfg.MODEL.HIPIE, cfg.MODEL.PROPOSAL_CLIP
    levels = [shapes[name] for name in node.IN_FEATURES]
    lateral = node.STUFF.LATERAL_FEATURE
    transformer = transformer_config(cfg, "STUFF")
    encoder = replace(transformer, dim_feedforward=keys.ENCODER_DIM_FEEDFORWARD)
    pixel_decoder = MaskDINOPixelDecoder(
        [level.channels for level in levels],
        encoder,
        finest_stride=levels[0].stride,
        num_levels=node.NUM_FEATURE_LEVELS,
        lateral=shapes[lateral] if lateral else None,
    )
    if keys.MASKS == "mask2former":
        return Mask2FormerGenerator(pixel_decoder, transformer)
    return StuffBranch(
        [level.channels for level in levels],
        clip.width,
        transformer,
        denoising_config(cfg, "STUFF"),
        classifies_text=False,
        pixel_decoder=pixel_decoder,
    )


def _classification_settings(cfg: CfgNode) -> ClassificationSettings:
    """Settings of `MODEL.PROPOSAL_CLIP`.

    Raises:
        InputError: for a weight or threshold outside 0..1.
    """
    keys = cfg.MODEL.PROPOSAL_CLIP
    for name in ("ALPHA", "BETA"):
        if not 0 <= keys.ENSEMBLE[name] <= 1:
            raise InputError(
                f"{KEYS}.ENSEMBLE.{name} is {keys.ENSEMBLE[name]}; it has to be in 0..1"
            )
    if not 0 <= keys.CROP_THRESHOLD < 1:
        raise InputError(
            f"{KEYS}.CROP_THRESHOLD is {keys.CROP_THRESHOLD}; it has to be at least 0 and below 1"
        )
    if keys.MAX_CROPS < 1:
        raise InputError(f"{KEYS}.MAX_CROPS is {keys.MAX_CROPS}; it has to be at least 1")
    prompt_templates(keys.TEMPLATES)
    alpha, beta = keys.ENSEMBLE.ALPHA, keys.ENSEMBLE.BETA
    return ClassificationSettings(
        mask_features=keys.MASK_FEATURES,
        templates=keys.TEMPLATES,
        ensemble=ScoreEnsemble(alpha=(alpha, alpha), beta=(beta, beta)),
        train_vocabulary=keys.ENSEMBLE.TRAIN_VOCABULARY,
        valid_masks_only=keys.ENSEMBLE.VALID_MASKS_ONLY,
        normalized=keys.ENSEMBLE.NORMALIZED,
        crop_threshold=keys.CROP_THRESHOLD,
        max_crops=keys.MAX_CROPS,
    )


def _check_choices(cfg: CfgNode) -> None:
    """Check the keys that have a few values, and those that depend on each other.

    Raises:
        InputError: naming the key.
    """
    keys = cfg.MODEL.PROPOSAL_CLIP
    for name, choices in (
        ("MASKS", SOURCES),
        ("MASK_FEATURES", MASK_FEATURES),
        ("TRAIN", TRAINED_PARTS),
    ):
        if keys[name] not in choices:
            raise InputError(
                f'{KEYS}.{name} is "{keys[name]}"; it has to be {", ".join(choices[:-1])} or '
                f"{choices[-1]}"
            )
    if keys.TRAIN == MASK_PROMPTS and keys.MASK_PROMPT_DEPTH < 1:
        raise InputError(
            f'{KEYS}.TRAIN is "{MASK_PROMPTS}", and {KEYS}.MASK_PROMPT_DEPTH is '
            f"{keys.MASK_PROMPT_DEPTH}; it has to be at least 1"
        )
    if keys.TRAIN in (CLIP_ENCODER, MASK_PROMPTS) and keys.MASK_FEATURES != "crops":
        raise InputError(
            f'{KEYS}.TRAIN is "{keys.TRAIN}", which needs {KEYS}.MASK_FEATURES "crops", not '
            f'"{keys.MASK_FEATURES}"'
        )
