"""Detectron2's keys that nothing here reads, and the warning about those that were changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from hipie.config.defaults import add_hipie_config
from hipie.config.loading import keys
from hipie.logs import get_logger
from hipie.projects import project_names

logger = get_logger(__name__)

_UNREAD = (
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN",
    "DATASETS.PROPOSAL_FILES_TEST",
    "DATASETS.PROPOSAL_FILES_TRAIN",
    "GLOBAL.HACK",
    "INPUT.CROP",
    "INPUT.MASK_FORMAT",
    "TEST.AUG",
    "TEST.KEYPOINT_OKS_SIGMAS",
    "VIS_PERIOD",
)
"""Keys and sections of data, training and evaluation."""

_UNREAD_BY_ARCHITECTURES = (
    "MODEL.ANCHOR_GENERATOR",
    "MODEL.KEYPOINT_ON",
    "MODEL.LOAD_PROPOSALS",
    "MODEL.MASK_ON",
    "MODEL.PANOPTIC_FPN",
    "MODEL.PROPOSAL_GENERATOR",
    "MODEL.RETINANET",
    "MODEL.ROI_BOX_CASCADE_HEAD",
    "MODEL.ROI_BOX_HEAD",
    "MODEL.ROI_HEADS",
    "MODEL.ROI_KEYPOINT_HEAD",
    "MODEL.ROI_MASK_HEAD",
    "MODEL.RPN",
    "MODEL.SEM_SEG_HEAD",
)
"""Keys and sections that the architectures of this package and of its projects do not read."""

_BACKBONE_SECTIONS = {
    "build_resnet_backbone": ("MODEL.RESNETS",),
    "build_resnet_fpn_backbone": ("MODEL.RESNETS", "MODEL.FPN"),
    "build_retinanet_resnet_fpn_backbone": ("MODEL.RESNETS", "MODEL.FPN"),
}
"""Sections that Detectron2's backbones read; those of this package read neither."""

_INHERITED = {
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
"""Values of configs/universal/hipie_r50.yaml, from which files with other backbones inherit."""


def warn_about_unread_keys(cfg: CfgNode) -> list[str]:
    """Log one warning that lists Detectron2's keys that were changed and are not read.

    Args:
        cfg: a configuration with all its registries filled.

    Returns:
        The full names of those keys.
    """
    changed = list(changed_unread_keys(cfg))
    if changed:
        warn_about_keys_without_effect(cfg, changed)
    return changed


def warn_about_keys_without_effect(cfg: CfgNode, names: Sequence[str]) -> None:
    """Log one warning that lists keys with their values.

    Args:
        cfg: has the values.
        names: full names of keys that were changed, at least one.
    """
    logger.warning(
        "%s of Detectron2 %s from the default and %s no effect here: %s",
        "A key" if len(names) == 1 else f"{len(names)} keys",
        "differs" if len(names) == 1 else "differ",
        "has" if len(names) == 1 else "have",
        ", ".join(f"{key} ({_value(cfg, key)!r})" for key in names),
    )


def changed_unread_keys(cfg: CfgNode) -> Iterator[str]:
    """Yield the full names of Detectron2's keys that differ from their default and are not read."""
    default = get_cfg()
    detectron2_keys = list(keys(default))
    add_hipie_config(default)
    unread = unread_sections(cfg)
    for key in detectron2_keys:
        in_section = any(key == section or key.startswith(f"{section}.") for section in unread)
        expected = (_value(default, key), _INHERITED.get(key, _value(default, key)))
        if in_section and _as_lists(_value(cfg, key)) not in map(_as_lists, expected):
            yield key


def unread_sections(cfg: CfgNode) -> tuple[str, ...]:
    """Return the keys and sections of Detectron2's configuration that are not read.

    What an architecture or a backbone of somebody else reads is not known: keys of models are left
    out then.

    Args:
        cfg: reads MODEL.META_ARCHITECTURE and MODEL.BACKBONE.NAME.
    """
    sections: tuple[str, ...] = _UNREAD
    architecture, backbone = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.BACKBONE.NAME
    if not _is_own(META_ARCH_REGISTRY, architecture):
        return sections
    sections += _UNREAD_BY_ARCHITECTURES
    if backbone in _BACKBONE_SECTIONS or _is_own(BACKBONE_REGISTRY, backbone):
        read = _BACKBONE_SECTIONS.get(backbone, ())
        sections += tuple({"MODEL.RESNETS", "MODEL.FPN"}.difference(read))
    return sections


def _is_own(registry: Any, name: str) -> bool:
    """Whether a registered object is of this package or of one of its projects."""
    if name not in registry:
        return False
    package = registry.get(name).__module__.partition(".")[0]
    return package in {"hipie", *project_names()}


def _as_lists(value: Any) -> Any:
    """Return a value with lists in place of tuples, as a written configuration has them."""
    return [_as_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


def _value(cfg: CfgNode, key: str) -> Any:
    return reduce(getattr, key.split("."), cfg)
