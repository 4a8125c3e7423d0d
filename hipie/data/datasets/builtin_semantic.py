"""Registering folders of label maps: of classes, of parts, of objects with parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hipie.data.datasets.coco import register_builtin
from hipie.data.datasets.part_classes import PartClass, load_part_classes
from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.vocabularies.tables import ClassTable
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass


def register_semantic(
    name: str,
    images: Path,
    maps: Path,
    classes: ClassTable,
    *,
    label_ending: str = ".png",
    ignore_label: int = 255,
) -> None:
    """Register label maps whose values are positions in the vocabulary.

    Args:
        name: of the data set.
        images, maps: folders of images (.jpg) and of label maps, named alike.
        classes: of the data set.
        label_ending: of the label maps' names.
        ignore_label: the value without a class.
    """
    register_builtin(
        name,
        partial(load_label_maps, maps, images, label_ending=label_ending),
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
    label_ending: str = ".tif",
    image_ending: str = ".jpg",
) -> None:
    """Register label maps whose values are positions in the vocabulary + 1, 0 = ignored.

    Args:
        name: of the data set.
        images, maps: folders of images and of label maps, named alike but for their endings.
        classes: parts and what has none.
        label_ending, image_ending: of the names.
    """
    vocabulary = classes.vocabulary
    grouped = {"part_groups": [g - 1 for g in classes.groups]} if any(classes.groups) else {}
    register_builtin(
        name,
        partial(
            load_label_maps,
            maps,
            images,
            label_ending=label_ending,
            image_ending=image_ending,
            key="part_seg_file_name",
        ),
        vocabulary=vocabulary,
        stuff_classes=list(vocabulary.names),
        stuff_dataset_id_to_contiguous_id=dict(classes.contiguous),
        part_wholes={one.name: one.whole for one in vocabulary.classes if one.whole},
        image_root=str(images),
        sem_seg_root=str(maps),
        ignore_label=0,
        evaluator_type="parts",
        **grouped,
    )


def register_part_pq(
    name: str,
    images: Path,
    maps: Path,
    classes: str,
    *,
    label_ending: str = ".tif",
    image_ending: str = ".jpg",
) -> None:
    """Register panoptic parts maps as distributed, to be judged by PartPQ.

    Args:
        name: of the data set.
        images, maps: folders of images and of label maps, named alike but for their endings.
        classes: which of the published choices, see `part_classes`.
        label_ending, image_ending: of the names.
    """
    judged = load_part_classes(classes)
    register_builtin(
        name,
        partial(
            load_label_maps,
            maps,
            images,
            label_ending=label_ending,
            image_ending=image_ending,
            key="pan_part_file_name",
        ),
        vocabulary=Vocabulary((*_classes(judged), *_parts(judged))),
        thing_classes=[one.name for one in judged if one.thing],
        stuff_classes=[one.name for one in judged],
        part_pq_classes=judged,
        image_root=str(images),
        evaluator_type="part_pq",
    )


def _classes(judged: list[PartClass]) -> Iterator[VocabularyClass]:
    """The classes, so that their positions are those among what is judged."""
    for one in judged:
        yield VocabularyClass(one.name, "thing" if one.thing else "stuff")


def _parts(judged: list[PartClass]) -> Iterator[VocabularyClass]:
    """Every class's parts in the order of their numbers."""
    for one in judged:
        for name in one.part_names:
            yield VocabularyClass(f"{one.name} {name}", "part", whole=one.name)
