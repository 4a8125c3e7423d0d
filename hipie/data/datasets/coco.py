"""Registering people's own data in COCO's format."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.data.datasets.coco_instances import contiguous_categories, load_coco_instances
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import INTEGER, NON_EMPTY_STRING, DatasetError, check_entry
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError

# Value of the metadata `provider` of data sets that this package registers.
PROVIDER = "hipie"
CATEGORY = {"id": INTEGER, "name": NON_EMPTY_STRING}


def register_coco(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    vocabulary: Vocabulary | None = None,
) -> None:
    """Register a COCO instance file under a name that `DATASETS.TRAIN` and `TEST` can use.

        register_coco("shelves", "shelves/train.json", "shelves/images")

    The categories are read at once, the rest on first use; a name that is taken is replaced.

    Args:
        name: any name.
        json_file: COCO's instances JSON.
        image_root: the images.
        vocabulary: one class a category in the order of their ids, to give synonyms or better
            names; by default the categories' names.

    Raises:
        FileNotFoundError, DatasetError: if the file cannot be read, or the vocabulary has another
            number of classes than the file has categories.
    """
    categories = read_json(json_file, ("categories",))["categories"]
    for position, category in enumerate(categories):
        check_entry(f"{json_file}: category {position} of the list", category, CATEGORY)
    contiguous = contiguous_categories(categories)
    names = [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    if len(contiguous) != len(names):
        raise DatasetError(f"{json_file}: two categories have the same id")
    if vocabulary is None:
        try:
            vocabulary = Vocabulary.from_names(things=names)
        except VocabularyError as error:
            raise DatasetError(f"{json_file}: {error}") from error
    if len(vocabulary.classes) != len(names):
        raise DatasetError(
            f"{json_file}: the file has {len(names)} categories, the vocabulary "
            f"{len(vocabulary.classes)} classes"
        )
    register(
        name,
        partial(load_coco_instances, json_file, image_root, contiguous),
        vocabulary=vocabulary,
        thing_classes=[one.name for one in vocabulary.classes],
        thing_dataset_id_to_contiguous_id=contiguous,
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
    )


def register_builtin(name: str, load: Callable[[], Any], **metadata: Any) -> None:
    """Put a public data set into Detectron2's catalogs, unless somebody else registered its name.

    Called again (for another root), it replaces what it registered before.
    """
    if name in DatasetCatalog and MetadataCatalog.get(name).get("provider") != PROVIDER:
        return
    register(name, load, provider=PROVIDER, **metadata)


def register(name: str, load: Callable[[], Any], **metadata: Any) -> None:
    """Put a data set into Detectron2's catalogs, in place of one of the same name."""
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)
