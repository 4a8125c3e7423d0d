"""Keys of `MODEL.HIPIE` that exclude each other, refused when the model is built."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from hipie.config.defaults import model_keys
from hipie.config.reading import ConfigError

_NODE = "MODEL.HIPIE"
_CHOICES = {
    "THINGS.MASK_HEAD": ("dynamic", "dot_product"),
}
# A key with this value needs another key with that one.
_NEEDS: tuple[tuple[str, Any, str, Any], ...] = (
    ("STUFF.EARLY_FUSION", True, "STUFF.ENABLED", True),
    ("STUFF.FUSED_TEXT", False, "STUFF.ENABLED", True),
    ("PIXEL_HEAD.ENABLED", True, "STUFF.ENABLED", True),
    ("PIXEL_HEAD.ENABLED", True, "STUFF.EARLY_FUSION", False),
    ("PIXEL_HEAD.ONLY", True, "PIXEL_HEAD.ENABLED", True),
    ("IMAGENET.ENABLED", True, "PIXEL_HEAD.ENABLED", True),
    ("PIXEL_HEAD.ONLY_READS_MASKS", True, "PIXEL_HEAD.ONLY", True),
    ("STUFF.BOX_LOSS", False, "STUFF.ENABLED", True),
    ("STUFF.SUPERVISE_THINGS", False, "STUFF.ENABLED", True),
    ("TEST.PANOPTIC_FROM_STUFF_DECODER_ONLY", True, "STUFF.ENABLED", True),
    ("TEST.PANOPTIC_FROM_STUFF_DECODER_ONLY", True, "STUFF.SUPERVISE_THINGS", True),
    ("TEST.THING_SCORES_FROM_STUFF_DECODER", True, "STUFF.ENABLED", True),
    ("TEST.THING_SCORES_FROM_STUFF_DECODER", True, "STUFF.SUPERVISE_THINGS", True),
    ("LOSS.SUPERVISE_LAST_IOU", True, "THINGS.IOU_HEAD", True),
)
_MASK_TERMS = ("mask_focal_loss", "mask_cross_entropy_loss", "mask_bootstrapped_loss")
_MATCHERS = ("SimOTAMatcher", "HungarianMatcher")
# Constants of one of these have no effect with the other.
_MATCHER_CONSTANTS = (
    ("LOSS.SIM_OTA", "LOSS.THING_MATCHER", "SimOTAMatcher"),
    ("LOSS.THING_COSTS", "LOSS.THING_MATCHER", "HungarianMatcher"),
    ("LOSS.STUFF_COSTS", "LOSS.STUFF_MATCHER", "HungarianMatcher"),
)


def check_conflicts(cfg: CfgNode) -> None:
    """Check that no two keys of `MODEL.HIPIE` exclude each other, nor `TEST.PART_MASKS` its data.

    Args:
        cfg: the whole configuration.

    Raises:
        ConfigError: naming both keys, or the key and what it may be.
    """
    node = cfg.MODEL.HIPIE
    for key, choices in _CHOICES.items():
        if _value(node, key) not in choices:
            raise ConfigError(
                f"{_NODE}.{key} is {_value(node, key)!r}; it has to be {' or '.join(choices)}"
            )
    for key, value, other, needed in _NEEDS:
        if _value(node, key) == value and _value(node, other) != needed:
            raise ConfigError(
                f"{_NODE}.{key} {value} and {_NODE}.{other} {_value(node, other)} exclude each "
                "other"
            )
    _check_matcher_constants(node)
    _check_fusion_layers(node)
    _check_stuff_constants(node)
    _check_part_masks(cfg)
    for key in ("LOSS.THING_TERMS", "LOSS.STUFF_TERMS"):
        terms = _value(node, key)
        of_masks = [term for term in _MASK_TERMS if term in terms]
        if len(of_masks) > 1:
            raise ConfigError(
                f"{_NODE}.{key} has {of_masks[0]} and {of_masks[1]}, which exclude each other: "
                "both are loss_mask with the weight MASK"
            )


def _check_matcher_constants(node: CfgNode) -> None:
    default = model_keys()
    for constants, key, matcher in _MATCHER_CONSTANTS:
        chosen = _value(node, key)
        changed = [*_changed(_value(node, constants), _value(default, constants))]
        if chosen != matcher and chosen in _MATCHERS and changed:
            raise ConfigError(
                f"{_NODE}.{constants}.{changed[0]} is a constant of {matcher}, and {_NODE}.{key} "
                f"is {chosen}: the two exclude each other"
            )


def _check_fusion_layers(node: CfgNode) -> None:
    layers, things = tuple(node.THINGS.FUSION_LAYERS), node.THINGS
    key = f"{_NODE}.THINGS.FUSION_LAYERS"
    if not things.EARLY_FUSION:
        if layers != (0,):
            raise ConfigError(
                f"{key} {layers} and {_NODE}.THINGS.EARLY_FUSION False exclude each other"
            )
        return
    last = max(things.ENCODER_LAYERS - 1, 0)
    rising = all(a < b for a, b in zip(layers, layers[1:], strict=False))
    if not layers or not rising or not all(0 <= layer <= last for layer in layers):
        raise ConfigError(
            f"{key} is {layers}; it has to be encoder layers from 0 to {last}, rising, since "
            f"{_NODE}.THINGS.ENCODER_LAYERS is {things.ENCODER_LAYERS}"
        )


def _check_stuff_constants(node: CfgNode) -> None:
    stuff, default = node.STUFF, model_keys().STUFF
    if stuff.LATERAL_FEATURE and not stuff.ENABLED:
        raise ConfigError(
            f"{_NODE}.STUFF.LATERAL_FEATURE {stuff.LATERAL_FEATURE} and {_NODE}.STUFF.ENABLED "
            "False exclude each other"
        )
    if not stuff.DENOISING_QUERIES and stuff.DENOISING_NOISE != default.DENOISING_NOISE:
        raise ConfigError(
            f"{_NODE}.STUFF.DENOISING_NOISE {stuff.DENOISING_NOISE} and "
            f"{_NODE}.STUFF.DENOISING_QUERIES 0 exclude each other: no query has noise"
        )


def _check_part_masks(cfg: CfgNode) -> None:
    """Masks of parts need a data set with names of parts; unregistered ones are not checked."""
    names = tuple(cfg.DATASETS.TEST)
    known = {*MetadataCatalog.list()}
    if not cfg.TEST.PART_MASKS or not names or not known.issuperset(names):
        return
    if all(MetadataCatalog.get(name).get("evaluator_type") != "parts" for name in names):
        raise ConfigError(
            f"TEST.PART_MASKS {cfg.TEST.PART_MASKS} and DATASETS.TEST {', '.join(names)} exclude "
            "each other: none of these data sets has names of parts"
        )


def _changed(node: CfgNode, default: CfgNode) -> Iterator[str]:
    return (name for name, value in node.items() if value != default.get(name))


def _value(node: CfgNode, key: str) -> Any:
    return reduce(getattr, key.split("."), node)
