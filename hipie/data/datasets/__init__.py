"""Readers of data sets, and their registration in Detectron2's catalogs."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from hipie.data.datasets.builtin import register_public_datasets
from hipie.data.datasets.coco_format import register_coco
from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.configured import register_configured
from hipie.data.datasets.label_map_format import register_parts, register_semantic
from hipie.data.datasets.lvis import load_lvis
from hipie.data.datasets.panoptic_format import register_coco_panoptic
from hipie.data.datasets.picturebook import register_picturebook, register_picturebook_groups
from hipie.data.datasets.refcoco import load_refcoco
from hipie.data.datasets.referring_format import register_groups, register_referring
from hipie.data.datasets.semantic_folder import load_label_maps, load_part_maps
from hipie.data.io.validation import DatasetError

# Names that show whether the public data sets and the picture book are registered.
BUILTIN_EXAMPLE = "refcoco_unc_val"
PICTUREBOOK_EXAMPLE = "picturebook_val_panoptic"

__all__ = [
    "DatasetError",
    "load_coco_instances",
    "load_coco_panoptic",
    "load_label_maps",
    "load_lvis",
    "load_part_maps",
    "load_refcoco",
    "register_all",
    "register_coco",
    "register_coco_panoptic",
    "register_default_datasets",
    "register_groups",
    "register_parts",
    "register_picturebook",
    "register_picturebook_groups",
    "register_public_datasets",
    "register_referring",
    "register_semantic",
]


def register_default_datasets() -> None:
    """Register the public data sets and the default picture book, unless that was done before.

    Nothing is read or drawn before a data set is used.
    """
    if BUILTIN_EXAMPLE not in DatasetCatalog:
        register_public_datasets()
    if PICTUREBOOK_EXAMPLE not in DatasetCatalog:
        register_picturebook()
        register_picturebook_groups()


def register_all(cfg: CfgNode) -> None:
    """Register the public data sets, the picture book and custom data sets of a configuration.

    Args:
        cfg: reads PICTUREBOOK and DATASETS.{COCO_FORMAT, COCO_PANOPTIC, SEMANTIC, PARTS,
            REFERRING, GROUPS}.

    Raises:
        ValueError, FileNotFoundError: see `register_configured`.
    """
    register_public_datasets()
    node = cfg.PICTUREBOOK
    register_picturebook(
        node.SEED,
        {"train": node.TRAIN_PAGES, "val": node.VAL_PAGES, "unseen": node.UNSEEN_PAGES},
        node.ROOT or None,
    )
    register_picturebook_groups(
        node.SEED,
        {"train": node.TRAIN_GROUPS, "val": node.VAL_GROUPS, "unseen": node.UNSEEN_GROUPS},
        node.ROOT or None,
    )
    register_configured(cfg)
