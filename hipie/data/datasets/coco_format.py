"""Registration of custom data sets in COCO's instance format."""

from __future__ import annotations

import os
from functools import partial

from hipie.data.datasets.annotation_kinds import INSTANCES, require_kind
from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.coco_instances import (
    category_ids_of,
    contiguous_categories,
    load_coco_instances,
)
from hipie.data.io.fields import TEXT, EntryFaults, read_field, whole_number
from hipie.data.io.json_file import read_json, require_lists
from hipie.data.io.validation import DatasetError
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError


def register_coco(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    vocabulary: Vocabulary | None = None,
    *,
    whole: str = "",
) -> None:
    """Register a COCO instance file under a name for `DATASETS.TRAIN` and `DATASETS.TEST`.

        register_coco("shelves", "shelves/train.json", "shelves/images")

    The categories are read at once, the rest when the data set is first used. An entry of the same
    name is replaced. The root category that Roboflow adds to the classes is left out.

    Args:
        name: name in the catalogs.
        json_file: COCO instances JSON.
        image_root: folder of the images.
        vocabulary: one class per category in the order of their ids, to add synonyms or better
            names; by default the categories' names.
        whole: the categories are parts of objects of this class, and their names join both: "car
            wheel". Category names "car:wheel", as PACO has them, are read likewise. Each object is
            an instance, evaluated by AP; `part_wholes` of the metadata has the whole of each class.

    Raises:
        FileNotFoundError, DatasetError: if the file cannot be read, or the vocabulary has another
            number of classes than the file has categories.
    """
    content = read_json(json_file)
    require_kind(json_file, content, INSTANCES)
    require_lists(json_file, content, ("categories",))
    faults = EntryFaults(json_file)
    category_ids_of(json_file, content["categories"], faults)
    names_by_id = {}
    for position, category in enumerate(content["categories"]):
        where = f"{json_file}: category {position} of the list"
        if isinstance(category, dict) and whole_number(category.get("id")) is not None:
            try:
                name_read = read_field(where, category, "name", TEXT)
            except DatasetError as error:
                faults.add(error)
                continue
            names_by_id[whole_number(category["id"])] = name_read
    faults.raise_if_any()
    wholes: dict[str, str] = {}
    contiguous = contiguous_categories(content)
    names = [names_by_id[number] for number in contiguous]
    if vocabulary is None:
        owners = [_split_part(name, whole) for name in names]
        names = [" ".join(filter(None, pair)) for pair in owners]
        try:
            vocabulary = Vocabulary.from_names(things=names)
        except VocabularyError as error:
            raise DatasetError(f"{json_file}: {error}") from error
        wholes = {name: owner for name, (owner, _) in zip(names, owners, strict=True) if owner}
    if len(vocabulary.classes) != len(names):
        raise DatasetError(
            f"{json_file}: the file has {len(names)} categories, the vocabulary "
            f"{len(vocabulary.classes)} classes"
        )
    register_dataset(
        name,
        partial(load_coco_instances, json_file, image_root, contiguous),
        vocabulary=vocabulary,
        thing_classes=list(vocabulary.names),
        thing_dataset_id_to_contiguous_id=contiguous,
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
        **({"part_wholes": wholes} if wholes else {}),
    )


def _split_part(name: str, whole: str) -> tuple[str, str]:
    """Return the whole ("" for none) and the part of a category's name."""
    owner, colon, part = name.partition(":")
    if colon and owner.strip() and part.strip():
        return owner.strip(), part.strip()
    return whole, name
