"""Registration of data sets in COCO's formats: COCO, LVIS, PACO, Objects365.

COCO 2017: `coco_2017_{train,val}_instance`, `coco_2017_{train,val}_sem_seg` and
`coco_2017_{train,val,val_100}_panoptic_with_sem_seg`.
LVIS v1: `lvis_v1_{train,val}_federated`. PACO: `paco_lvis_{train,val,test}`,
`paco_ego4d_{train,val,test_dev}`. Car-Parts: `car_parts_{train,test}`.
Objects365: `objects365_{train,val}`,
`objects365_v2_{train,val}` (boxes), `objects365_v2_{train,val}_segm` (masks made from the boxes).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from hipie.data.datasets.catalog import register_builtin
from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.lvis import load_lvis
from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.vocabularies.tables import ClassTable, load_classes

LABEL_DIVISOR = 1000
IGNORE_LABEL = 255

# Data set -> (images, COCO JSON, vocabulary), relative to the root of all data sets.
INSTANCES = {
    "coco_2017_train_instance": (
        "coco/train2017",
        "coco/annotations/instances_train2017.json",
        "coco",
    ),
    "coco_2017_val_instance": ("coco/val2017", "coco/annotations/instances_val2017.json", "coco"),
    "paco_lvis_train": ("coco", "paco/paco_lvis_v1_train.json", "paco"),
    "paco_lvis_val": ("coco", "paco/paco_lvis_v1_val.json", "paco"),
    "paco_lvis_test": ("coco", "paco/paco_lvis_v1_test.json", "paco"),
    "paco_ego4d_train": ("ego4d/v1/paco_frames", "paco/paco_ego4d_v1_train.json", "paco"),
    "paco_ego4d_val": ("ego4d/v1/paco_frames", "paco/paco_ego4d_v1_val.json", "paco"),
    "paco_ego4d_test_dev": ("ego4d/v1/paco_frames", "paco/paco_ego4d_v1_test_dev.json", "paco"),
    "car_parts_train": (
        "Car-Parts-Segmentation/trainingset",
        "Car-Parts-Segmentation/trainingset/annotations.json",
        "car_parts",
    ),
    "car_parts_test": (
        "Car-Parts-Segmentation/testset",
        "Car-Parts-Segmentation/testset/annotations.json",
        "car_parts",
    ),
    "objects365_train": (
        "objects365/train",
        "objects365/annotations/objects365_train.json",
        "obj365v1",
    ),
    "objects365_val": ("objects365/val", "objects365/annotations/objects365_val.json", "obj365v1"),
    "objects365_v2_train": (
        "Objects365/images/train",
        "instance365/zhiyuan_objv2_train_new.json",
        "obj365v2",
    ),
    "objects365_v2_val": (
        "Objects365/images/val",
        "instance365/zhiyuan_objv2_val_new.json",
        "obj365v2",
    ),
    "objects365_v2_train_segm": (
        "Objects365/images/train",
        "instance365/instance_365_train.json",
        "obj365v2",
    ),
    "objects365_v2_val_segm": (
        "Objects365/images/val",
        "instance365/instance_365_val.json",
        "obj365v2",
    ),
}
# Split -> (images, name of the panoptic files, semantic maps, instances).
PANOPTIC = {
    "train": ("train2017", "panoptic_train2017", "panoptic_semseg_train2017", "train2017"),
    "val": ("val2017", "panoptic_val2017", "panoptic_semseg_val2017", "val2017"),
    "val_100": (
        "val2017",
        "panoptic_val2017_100",
        "panoptic_thing_stuff_val2017_100",
        "val2017_100",
    ),
}


def register_coco_datasets(root: Path) -> None:
    """Register the data sets; no file is read before one is used.

    Args:
        root: root folder of all data sets.
    """
    for name, (images, file, vocabulary) in INSTANCES.items():
        register_instances(name, root / images, root / file, load_classes(vocabulary))
    for split in ("train", "val"):
        _register_lvis(root, split)
    for split in PANOPTIC:
        _register_panoptic(root / "coco", split)


def register_instances(
    name: str, images: Path, file: Path, classes: ClassTable, **metadata: Any
) -> None:
    """Register a COCO instance file with a known class table.

    Args:
        name: name of the data set.
        images: folder of the images.
        file: COCO instances JSON with the category ids of `classes`.
        classes: thing classes, in the order of the contiguous class indices.
        metadata: further attributes for `MetadataCatalog`.
    """
    contiguous = dict(classes.contiguous)
    register_builtin(
        name,
        partial(load_coco_instances, file, images, contiguous),
        vocabulary=classes.vocabulary,
        thing_classes=list(classes.vocabulary.names),
        thing_dataset_id_to_contiguous_id=contiguous,
        json_file=str(file),
        image_root=str(images),
        **{"evaluator_type": "coco", **metadata},
    )


def panoptic_metadata(classes: ClassTable) -> dict[str, Any]:
    """Return the metadata for Detectron2's panoptic evaluator and visualizer.

    Args:
        classes: things and stuff, in the order of the contiguous class indices.
    """
    vocabulary = classes.vocabulary
    return {
        "vocabulary": vocabulary,
        "thing_classes": [entry.name for entry in vocabulary.classes if entry.kind == "thing"],
        "stuff_classes": list(vocabulary.names),
        "thing_dataset_id_to_contiguous_id": dict(classes.things),
        "stuff_dataset_id_to_contiguous_id": dict(classes.contiguous),
        "ignore_label": IGNORE_LABEL,
        "label_divisor": LABEL_DIVISOR,
        "evaluator_type": "coco_panoptic_seg",
    }


def _register_panoptic(root: Path, split: str) -> None:
    image_folder, panoptic, semantic, instances = PANOPTIC[split]
    classes = load_classes("coco_panoptic")
    file = root / "annotations" / f"{panoptic}.json"
    maps, images = root / semantic, root / image_folder
    colours = [category["color"] for category in COCO_CATEGORIES]
    shared = {
        "image_root": str(images),
        "sem_seg_root": str(maps),
        "stuff_colors": colours,
    }
    register_builtin(
        f"coco_2017_{split}_panoptic_with_sem_seg",
        partial(load_coco_panoptic, file, root / panoptic, images, dict(classes.contiguous), maps),
        panoptic_json=str(file),
        panoptic_root=str(root / panoptic),
        json_file=str(root / "annotations" / f"instances_{instances}.json"),
        thing_colors=colours[: len(classes.things)],
        **shared,
        **panoptic_metadata(classes),
    )
    if split != "val_100":
        register_builtin(
            f"coco_2017_{split}_sem_seg",
            partial(load_label_maps, maps, images),
            vocabulary=classes.vocabulary,
            stuff_classes=list(classes.vocabulary.names),
            stuff_dataset_id_to_contiguous_id={i: i for i in range(len(classes.ids))},
            ignore_label=IGNORE_LABEL,
            evaluator_type="sem_seg",
            **shared,
        )


def _register_lvis(root: Path, split: str) -> None:
    classes = load_classes("lvis_1203")
    contiguous = dict(classes.contiguous)
    file, images = root / f"lvis/lvis_v1_{split}.json", root / "coco"
    register_builtin(
        f"lvis_v1_{split}_federated",
        partial(load_lvis, file, images, contiguous),
        vocabulary=classes.vocabulary,
        thing_classes=list(classes.vocabulary.names),
        thing_dataset_id_to_contiguous_id=contiguous,
        json_file=str(file),
        image_root=str(images),
        evaluator_type="lvis",
    )
