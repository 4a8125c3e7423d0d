"""ADE20K: SceneParse150 (150 classes) and the full data set (847 frequent classes).

`ade20k_panoptic_{train,val}`, `ade20k_instance_{train,val}`, `ade20k_sem_seg_{train,val}`, and
`ade20k_full_sem_seg_{train,val}`; `datasets/prepare_ade20k.py` and `prepare_ade20k_full.py` write
the files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hipie.data.datasets.builtin_coco import panoptic_metadata, register_instances
from hipie.data.datasets.builtin_semantic import register_semantic
from hipie.data.datasets.coco import register_builtin
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.vocabularies.tables import ClassTable, load_classes
from hipie.vocabularies.vocabulary import Vocabulary

FOLDERS = {"train": "training", "val": "validation"}
IGNORED_OF_16_BITS = 65535


def register_ade20k(root: Path) -> None:
    """Register all of them; nothing is read from `root` before a data set is used.

    Args:
        root: the folder of all data sets.
    """
    classes = load_classes("ade20k_150")
    things = _things_of(classes)
    place, full = root / "ade/ADEChallengeData2016", root / "ade/ADE20K_2021_17_01"
    for split, folder in FOLDERS.items():
        images = place / "images" / folder
        maps = place / "annotations_detectron2" / folder
        panoptic = place / f"ade20k_panoptic_{split}"
        file, instances = panoptic.with_suffix(".json"), place / f"ade20k_instance_{split}.json"
        register_builtin(
            f"ade20k_panoptic_{split}",
            partial(load_coco_panoptic, file, panoptic, images, dict(classes.contiguous), maps),
            panoptic_json=str(file),
            panoptic_root=str(panoptic),
            json_file=str(instances),
            image_root=str(images),
            sem_seg_root=str(maps),
            **panoptic_metadata(classes),
        )
        register_instances(f"ade20k_instance_{split}", images, instances, things)
        register_semantic(f"ade20k_150_sem_seg_{split}", images, maps, classes)
        register_semantic(
            f"ade20k_full_sem_seg_{split}",
            full / "images_detectron2" / folder,
            full / "annotations_detectron2" / folder,
            load_classes("ade20k_847"),
            label_ending=".tif",
            ignore_label=IGNORED_OF_16_BITS,
        )


def _things_of(classes: ClassTable) -> ClassTable:
    kept = [
        (one, number)
        for one, number in zip(classes.vocabulary.classes, classes.ids, strict=True)
        if one.kind == "thing"
    ]
    return ClassTable(Vocabulary(tuple(one for one, _ in kept)), tuple(i for _, i in kept))
