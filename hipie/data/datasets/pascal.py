"""Pascal VOC, Pascal Context, and parts: Pascal Panoptic Parts, Cityscapes Panoptic Parts.

`pascal21_sem_seg_{train,val}` (background is a class), `pascal20_sem_seg_{train,val}` (background
is ignored), `ctx59_sem_seg_{train,val}`, `ctx459_sem_seg_{train,val}`,
`pascal_parts_{train,val,test}` (200 phrases), `pascal_parts_merged_{train,val,test}` (57), and
`cityscapes_panoptic_parts_{train,val}` (50). Programs in `datasets/` write the label maps.
`pascal_part_{train,val}` and `pascal_part_merged_{train,val}` are the same phrases on Pascal-Part's
own annotations, which have no stuff.
`pascal_part_pq_{train,val}` and `cityscapes_part_pq_{train,val}` are the maps as distributed, with
objects, classes and parts, for PartPQ.
"""

from __future__ import annotations

from pathlib import Path

from hipie.data.datasets.builtin_semantic import register_part_pq, register_parts, register_semantic
from hipie.vocabularies.tables import load_classes

FOLDERS = {"train": "training", "val": "validation"}
PART_FOLDERS = {**FOLDERS, "test": "test"}
IGNORED_OF_16_BITS = 65535
CITY_LABELS, CITY_IMAGE = "_gtFinePanopticParts.tif", "_leftImg8bit.png"


def register_pascal(root: Path) -> None:
    """Register all of them; nothing is read from `root` before a data set is used.

    Args:
        root: the folder of all data sets.
    """
    voc, context = root / "pascal_voc_d2", root / "pascal_ctx_d2"
    for split, folder in FOLDERS.items():
        for count in (21, 20):
            register_semantic(
                f"pascal{count}_sem_seg_{split}",
                voc / "images" / folder,
                voc / f"annotations_pascal{count}" / folder,
                load_classes(f"pascal_voc_{count}"),
            )
        register_semantic(
            f"ctx59_sem_seg_{split}",
            context / "images" / folder,
            context / "annotations_ctx59" / folder,
            load_classes("pascal_context_59"),
        )
        register_semantic(
            f"ctx459_sem_seg_{split}",
            context / "images" / folder,
            context / "annotations_ctx459" / folder,
            load_classes("pascal_context_459"),
            label_ending=".tif",
            ignore_label=IGNORED_OF_16_BITS,
        )
    images, labels = root / "VOCdevkit/VOC2010/JPEGImages", root / "pascal_parts/labels"
    for split, folder in PART_FOLDERS.items():
        _register_phrases("pascal_parts", split, images, labels, folder)
    for split, folder in FOLDERS.items():
        _register_phrases("pascal_part", split, images, root / "pascal_part/labels", folder)
    for split, folder in FOLDERS.items():
        register_part_pq(f"pascal_part_pq_{split}", images, labels / folder, "pascal")


def _register_phrases(name: str, split: str, images: Path, labels: Path, folder: str) -> None:
    for suffix, kind in (("", "pano"), ("_merged", "merged")):
        register_parts(
            f"{name}{suffix}_{split}",
            images,
            labels / f"{folder}_{kind}",
            load_classes(f"pascal_parts_{kind}"),
        )


def register_cityscapes_parts(root: Path) -> None:
    """Register Cityscapes Panoptic Parts; nothing is read before a data set is used.

    Args:
        root: the folder of all data sets.
    """
    place = root / "cityscapes"
    for split in ("train", "val"):
        register_parts(
            f"cityscapes_panoptic_parts_{split}",
            place / "images_all" / split,
            place / "gtFinePanopticPartsRemapped" / split,
            load_classes("cityscapes_panoptic_parts"),
            label_ending=CITY_LABELS,
            image_ending=CITY_IMAGE,
        )
        register_part_pq(
            f"cityscapes_part_pq_{split}",
            place / "leftImg8bit" / split,
            place / "gtFinePanopticParts" / split,
            "cityscapes",
            label_ending=CITY_LABELS,
            image_ending=CITY_IMAGE,
        )
