"""Registration of label map data sets: semantic segmentation, parts, and objects with parts.

ADE20K: `ade20k_panoptic_{train,val}`, `ade20k_instance_{train,val}`,
`ade20k_150_sem_seg_{train,val}` (SceneParse150), `ade20k_full_sem_seg_{train,val}` (847 classes).
Pascal VOC: `pascal21_sem_seg_{train,trainaug,val}` (with a background class),
`pascal20_sem_seg_{train,trainaug,val}` (background is ignored); `trainaug` has SBD's masks, too.
Pascal Context:
`ctx59_sem_seg_{train,val}`, `ctx459_sem_seg_{train,val}`. CamVid: `camvid_{train,val,test}`.
Pascal Panoptic Parts: `pascal_parts_{train,val,test}` (200 classes),
`pascal_parts_merged_{train,val,test}` (57), `pascal_part_pq_{train,val}` (for PartPQ).
Pascal-Part's own annotations, without stuff: `pascal_part_{train,val}`,
`pascal_part_merged_{train,val}`.
Cityscapes Panoptic Parts: `cityscapes_panoptic_parts_{train,val}` (50 classes),
`cityscapes_part_pq_{train,val}` (for PartPQ).

The programs `datasets/prepare_*.py` write the label maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hipie.data.datasets.builtin_coco import panoptic_metadata, register_instances
from hipie.data.datasets.catalog import register_builtin
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.panoptic_parts import PartClass, load_part_classes
from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.vocabularies.tables import ClassTable, load_classes
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

SPLIT_FOLDERS = {"train": "training", "val": "validation"}
VOC_FOLDERS = {**SPLIT_FOLDERS, "trainaug": "training_aug"}
PANOPTIC_PARTS_FOLDERS = {**SPLIT_FOLDERS, "test": "test"}
IGNORE_LABEL_16_BIT = 65535
CAMVID_UNLABELLED = 11
CITYSCAPES_LABEL_SUFFIX = "_gtFinePanopticParts.tif"
CITYSCAPES_IMAGE_SUFFIX = "_leftImg8bit.png"


def register_ade20k(root: Path) -> None:
    """Register ADE20K; no file is read before a data set is used.

    Args:
        root: root folder of all data sets.
    """
    classes = load_classes("ade20k_150")
    things = _thing_classes(classes)
    scene_parsing, full = root / "ade/ADEChallengeData2016", root / "ade/ADE20K_2021_17_01"
    for split, folder in SPLIT_FOLDERS.items():
        images = scene_parsing / "images" / folder
        maps = scene_parsing / "annotations_detectron2" / folder
        panoptic_root = scene_parsing / f"ade20k_panoptic_{split}"
        panoptic_json = panoptic_root.with_suffix(".json")
        instance_json = scene_parsing / f"ade20k_instance_{split}.json"
        register_builtin(
            f"ade20k_panoptic_{split}",
            partial(
                load_coco_panoptic,
                panoptic_json,
                panoptic_root,
                images,
                dict(classes.contiguous),
                maps,
                overlapping_areas=True,
            ),
            panoptic_json=str(panoptic_json),
            panoptic_root=str(panoptic_root),
            json_file=str(instance_json),
            image_root=str(images),
            sem_seg_root=str(maps),
            **panoptic_metadata(classes),
        )
        register_instances(f"ade20k_instance_{split}", images, instance_json, things)
        register_semantic(f"ade20k_150_sem_seg_{split}", images, maps, classes)
        register_semantic(
            f"ade20k_full_sem_seg_{split}",
            full / "images_detectron2" / folder,
            full / "annotations_detectron2" / folder,
            load_classes("ade20k_847"),
            label_suffix=".tif",
            ignore_label=IGNORE_LABEL_16_BIT,
        )


def register_pascal(root: Path) -> None:
    """Register Pascal VOC, Context and parts; no file is read before a data set is used.

    Args:
        root: root folder of all data sets.
    """
    voc, context = root / "pascal_voc_d2", root / "pascal_ctx_d2"
    for split, folder in VOC_FOLDERS.items():
        for count in (21, 20):
            register_semantic(
                f"pascal{count}_sem_seg_{split}",
                voc / "images" / folder,
                voc / f"annotations_pascal{count}" / folder,
                load_classes(f"pascal_voc_{count}"),
            )
    for split, folder in SPLIT_FOLDERS.items():
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
            label_suffix=".tif",
            ignore_label=IGNORE_LABEL_16_BIT,
        )
    images, labels = root / "VOCdevkit/VOC2010/JPEGImages", root / "pascal_parts/labels"
    for split, folder in PANOPTIC_PARTS_FOLDERS.items():
        _register_pascal_parts("pascal_parts", split, images, labels / folder)
    for split, folder in SPLIT_FOLDERS.items():
        _register_pascal_parts("pascal_part", split, images, root / "pascal_part/labels" / folder)
    for split, folder in SPLIT_FOLDERS.items():
        register_part_pq(f"pascal_part_pq_{split}", images, labels / folder, "pascal")


def register_camvid(root: Path) -> None:
    """Register CamVid (Brostow et al., 2009) as the SegNet tutorial distributes it.

    Its label maps are read as they are; no file is read before a data set is used.

    Args:
        root: root folder of all data sets.
    """
    folder = root / "CamVid"
    for split in ("train", "val", "test"):
        register_semantic(
            f"camvid_{split}",
            folder / split,
            folder / f"{split}annot",
            load_classes("camvid"),
            image_suffix=".png",
            ignore_label=CAMVID_UNLABELLED,
        )


def register_cityscapes_parts(root: Path) -> None:
    """Register Cityscapes Panoptic Parts; no file is read before a data set is used.

    Args:
        root: root folder of all data sets.
    """
    cityscapes = root / "cityscapes"
    for split in ("train", "val"):
        register_parts(
            f"cityscapes_panoptic_parts_{split}",
            cityscapes / "images_all" / split,
            cityscapes / "gtFinePanopticPartsRemapped" / split,
            load_classes("cityscapes_panoptic_parts"),
            label_suffix=CITYSCAPES_LABEL_SUFFIX,
            image_suffix=CITYSCAPES_IMAGE_SUFFIX,
        )
        register_part_pq(
            f"cityscapes_part_pq_{split}",
            cityscapes / "leftImg8bit" / split,
            cityscapes / "gtFinePanopticParts" / split,
            "cityscapes",
            label_suffix=CITYSCAPES_LABEL_SUFFIX,
            image_suffix=CITYSCAPES_IMAGE_SUFFIX,
        )


def register_semantic(
    name: str,
    images: Path,
    maps: Path,
    classes: ClassTable,
    *,
    label_suffix: str = ".png",
    image_suffix: str = ".jpg",
    ignore_label: int = 255,
) -> None:
    """Register label maps whose values are positions in the vocabulary.

    Args:
        name: name of the data set.
        images: folder of images.
        maps: folder of label maps with the same names.
        classes: classes of the data set.
        label_suffix: suffix of the label maps.
        image_suffix: suffix of the images.
        ignore_label: the value without a class.
    """
    register_builtin(
        name,
        partial(
            load_label_maps, maps, images, label_suffix=label_suffix, image_suffix=image_suffix
        ),
        vocabulary=classes.vocabulary,
        stuff_classes=list(classes.vocabulary.names),
        stuff_dataset_id_to_contiguous_id={i: i for i in range(len(classes.ids))},
        image_root=str(images),
        sem_seg_root=str(maps),
        ignore_label=ignore_label,
        evaluator_type="sem_seg",
    )


def register_parts(
    name: str,
    images: Path,
    maps: Path,
    classes: ClassTable,
    *,
    label_suffix: str = ".tif",
    image_suffix: str = ".jpg",
) -> None:
    """Register label maps whose values are positions in the vocabulary + 1, 0 = ignored.

    Args:
        name: name of the data set.
        images: folder of images.
        maps: folder of label maps with the same names up to the suffixes.
        classes: parts, and the classes without parts.
        label_suffix: suffix of the label maps.
        image_suffix: suffix of the images.
    """
    vocabulary = classes.vocabulary
    groups = {"part_groups": [g - 1 for g in classes.groups]} if any(classes.groups) else {}
    register_builtin(
        name,
        partial(
            load_label_maps,
            maps,
            images,
            label_suffix=label_suffix,
            image_suffix=image_suffix,
            key="part_seg_file_name",
        ),
        vocabulary=vocabulary,
        stuff_classes=list(vocabulary.names),
        stuff_dataset_id_to_contiguous_id=dict(classes.contiguous),
        part_wholes={entry.name: entry.whole for entry in vocabulary.classes if entry.whole},
        image_root=str(images),
        sem_seg_root=str(maps),
        ignore_label=0,
        evaluator_type="parts",
        **groups,
    )


def register_part_pq(
    name: str,
    images: Path,
    maps: Path,
    classes: str,
    *,
    label_suffix: str = ".tif",
    image_suffix: str = ".jpg",
) -> None:
    """Register panoptic parts maps as distributed, for evaluation by PartPQ.

    Args:
        name: name of the data set.
        images: folder of images.
        maps: folder of label maps with the same names up to the suffixes.
        classes: name for `load_part_classes`.
        label_suffix: suffix of the label maps.
        image_suffix: suffix of the images.
    """
    part_classes = load_part_classes(classes)
    register_builtin(
        name,
        partial(
            load_label_maps,
            maps,
            images,
            label_suffix=label_suffix,
            image_suffix=image_suffix,
            key="pan_part_file_name",
        ),
        vocabulary=Vocabulary((*_scene_classes(part_classes), *_part_classes(part_classes))),
        thing_classes=[entry.name for entry in part_classes if entry.thing],
        stuff_classes=[entry.name for entry in part_classes],
        part_pq_classes=part_classes,
        image_root=str(images),
        evaluator_type="part_pq",
    )


def _register_pascal_parts(name: str, split: str, images: Path, labels: Path) -> None:
    for suffix, kind in (("", "pano"), ("_merged", "merged")):
        register_parts(
            f"{name}{suffix}_{split}",
            images,
            labels.with_name(f"{labels.name}_{kind}"),
            load_classes(f"pascal_parts_{kind}"),
        )


def _thing_classes(classes: ClassTable) -> ClassTable:
    things = [
        (entry, number)
        for entry, number in zip(classes.vocabulary.classes, classes.ids, strict=True)
        if entry.kind == "thing"
    ]
    vocabulary = Vocabulary(tuple(entry for entry, _ in things))
    return ClassTable(vocabulary, tuple(number for _, number in things))


def _scene_classes(part_classes: list[PartClass]) -> Iterator[VocabularyClass]:
    """Yield the things and stuff, at the positions that they have in `part_classes`."""
    for entry in part_classes:
        yield VocabularyClass(entry.name, "thing" if entry.thing else "stuff")


def _part_classes(part_classes: list[PartClass]) -> Iterator[VocabularyClass]:
    """Yield the parts of every class in the order of their numbers."""
    for entry in part_classes:
        for name in entry.part_names:
            yield VocabularyClass(f"{entry.name} {name}", "part", whole=entry.name)
