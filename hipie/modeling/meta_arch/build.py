"""What a configuration says of HIPIE, as its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.modeling.open_vocabulary.error import missing_package
from hipie.modeling.postprocessing.universal_inference import InferenceSettings
from hipie.modeling.text_encoder.base import build_text_encoder
from hipie.modeling.transformer_decoder.stuff_branch import StuffBranch
from hipie.modeling.transformer_decoder.thing_branch import ThingBranch

if TYPE_CHECKING:
    from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble

FEATURES = ("res3", "res4", "res5")


def assemble(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of `hipie.modeling.meta_arch.hipie.HIPIE`, from `MODEL.HIPIE` and Detectron2's keys."""
    keys = cfg.MODEL.HIPIE
    backbone = build_backbone(cfg)
    shapes = backbone.output_shape()
    text_encoder = build_text_encoder(cfg)
    shared = {
        "in_channels": [shapes[name].channels for name in FEATURES],
        "width": keys.HIDDEN_DIM,
        "text_width": text_encoder.width,
    }
    return {
        "backbone": backbone,
        "text_encoder": text_encoder,
        "things": ThingBranch(
            **shared,
            **_transformer(keys.THINGS),
            num_background_queries=keys.THINGS.NUM_BACKGROUND_QUERIES,
            early_fusion=keys.THINGS.EARLY_FUSION,
            fusion_width=keys.THINGS.FUSION_EMBED_DIM,
            fusion_heads=keys.THINGS.FUSION_HEADS,
            fusion_dropout=keys.THINGS.FUSION_DROPOUT,
            mask_channels=keys.THINGS.MASK_CHANNELS,
            published_denoising_masks=keys.LOSS.OFFICIAL_BOX_FRAMES,
        ),
        "stuff": _stuff_branch(shared, keys) if keys.STUFF.ENABLED else None,
        "thing_criterion": ThingCriterion(
            keys.LOSS.NUM_POINTS,
            average_normalizers=keys.LOSS.AVERAGE_NORMALIZERS,
            final_quality=keys.LOSS.SUPERVISE_LAST_IOU,
        ),
        "stuff_criterion": StuffCriterion(
            keys.LOSS.NUM_POINTS, published_frame=keys.LOSS.OFFICIAL_BOX_FRAMES
        ),
        "settings": InferenceSettings(
            instance_on=keys.TEST.INSTANCE_ON,
            semantic_on=keys.TEST.SEMANTIC_ON,
            panoptic_on=keys.TEST.PANOPTIC_ON,
            detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            token_pooling=keys.TEST.TOKEN_POOLING,
            nms_threshold=keys.TEST.NMS_THRESHOLD,
            temperature=keys.TEST.TEMPERATURE,
            min_softmax_classes=keys.TEST.MIN_SOFTMAX_CLASSES,
            object_mask_threshold=keys.OBJECT_MASK_THRESHOLD,
            overlap_threshold=keys.OVERLAP_THRESHOLD,
            thing_scores_from_stuff_decoder=keys.TEST.THING_SCORES_FROM_STUFF_DECODER,
            panoptic_from_stuff_decoder_only=keys.TEST.PANOPTIC_FROM_STUFF_DECODER_ONLY,
            consistent_parts=keys.TEST.CONSISTENT_PARTS,
        ),
        "clip_ensemble": _clip_ensemble(cfg) if keys.CLIP.ENABLED else None,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "size_divisibility": keys.SIZE_DIVISIBILITY,
        "pad_at_test": keys.PAD_AT_TEST,
        "spread_whole_names": keys.LOSS.PROPAGATE_PART_TO_WHOLE,
        "unfused_expressions": keys.TEST.UNFUSED_EXPRESSION_FEATURES,
        "default_dataset": cfg.DATASETS.TEST[0] if len(cfg.DATASETS.TEST) else "",
    }


def _clip_ensemble(cfg: CfgNode) -> ClipEnsemble:
    try:
        from hipie.modeling.open_vocabulary.clip_ensemble import ClipEnsemble
    except ModuleNotFoundError as error:
        raise missing_package("MODEL.HIPIE.CLIP", "open_clip_torch", "clip") from error
    return ClipEnsemble.from_config(cfg)


def _transformer(keys: CfgNode) -> dict[str, int]:
    """What the two branches call alike."""
    return {
        "num_queries": keys.NUM_QUERIES,
        "encoder_layers": keys.ENCODER_LAYERS,
        "decoder_layers": keys.DECODER_LAYERS,
        "num_heads": keys.NUM_HEADS,
        "num_points": keys.NUM_POINTS,
        "ffn_width": keys.DIM_FEEDFORWARD,
        "denoising_queries": keys.DENOISING_QUERIES,
    }


def _stuff_branch(shared: dict[str, Any], keys: CfgNode) -> StuffBranch:
    return StuffBranch(
        **shared,
        **_transformer(keys.STUFF),
        denoising_noise=keys.STUFF.DENOISING_NOISE,
        published_frame=keys.LOSS.OFFICIAL_BOX_FRAMES,
    )
