"""Registration of custom data sets in COCO's panoptic format."""

from __future__ import annotations

import os
from functools import partial

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from hipie.data.datasets.annotation_kinds import PANOPTIC, require_kind
from hipie.data.datasets.builtin_coco import panoptic_metadata
from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.io.fields import (
    FLAG,
    TEXT,
    WHOLE_NUMBER,
    EntryFaults,
    read_field,
    read_optional,
    require_entry,
)
from hipie.data.io.json_file import read_json, require_lists
from hipie.data.io.validation import DatasetError
from hipie.vocabularies.tables import ClassTable, load_classes
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass, VocabularyError

COCO_NAMES = {category["id"]: category["name"] for category in COCO_CATEGORIES}


def register_coco_panoptic(
    name: str,
    json_file: str | os.PathLike[str],
    panoptic_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    sem_seg_root: str | os.PathLike[str] | None = None,
) -> None:
    """Register a COCO panoptic file under a name for `DATASETS.TRAIN` and `DATASETS.TEST`.

    The categories are read at once, the rest when the data set is first used. An entry of the same
    name is replaced. COCO's own categories get the prompts of the published models ("wall" instead
    of "wall-other-merged").

    Args:
        name: name in the catalogs.
        json_file: COCO panoptic JSON.
        panoptic_root: folder of the PNGs.
        image_root: folder of the images.
        sem_seg_root: folder of label maps whose values are positions in the list of categories, in
            the order of their ids; None = semantic maps are made from the panoptic ones.

    Raises:
        FileNotFoundError, DatasetError: if the categories cannot be read.
    """
    classes = _categories(json_file)
    register_dataset(
        name,
        partial(
            load_coco_panoptic,
            json_file,
            panoptic_root,
            image_root,
            dict(classes.contiguous),
            sem_seg_root,
        ),
        panoptic_json=str(json_file),
        panoptic_root=str(panoptic_root),
        image_root=str(image_root),
        **({} if sem_seg_root is None else {"sem_seg_root": str(sem_seg_root)}),
        **panoptic_metadata(classes),
    )


def _categories(json_file: str | os.PathLike[str]) -> ClassTable:
    """Return the classes of a panoptic file, in the order of their ids."""
    content = read_json(json_file)
    require_kind(json_file, content, PANOPTIC)
    require_lists(json_file, content, ("categories",))
    faults = EntryFaults(json_file)
    entries: dict[int, tuple[str, bool]] = {}
    for position, category in enumerate(content["categories"]):
        where = f"{json_file}: category {position} of the list"
        try:
            number = read_field(where, require_entry(where, category), "id", WHOLE_NUMBER)
            if number in entries:
                raise DatasetError(f"{json_file}: two categories have the same id {number}")
            category_name = read_field(where, category, "name", TEXT)
            entries[number] = (
                category_name,
                bool(read_optional(where, category, "isthing", FLAG, 1)),
            )
        except DatasetError as error:
            faults.add(error)
    faults.raise_if_any()
    if {number: category for number, (category, _) in entries.items()} == COCO_NAMES:
        return load_classes("coco_panoptic")
    numbers = sorted(entries)
    try:
        vocabulary = Vocabulary(
            tuple(
                VocabularyClass(entries[number][0], "thing" if entries[number][1] else "stuff")
                for number in numbers
            )
        )
    except VocabularyError as error:
        raise DatasetError(f"{json_file}: {error}") from error
    return ClassTable(vocabulary, tuple(numbers))
