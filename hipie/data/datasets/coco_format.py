"""Registration of custom data sets in COCO's instance format."""

from __future__ import annotations

import os
from functools import partial

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.coco_instances import contiguous_categories, load_coco_instances
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import INTEGER, NON_EMPTY_STRING, DatasetError, check_entry
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError

CATEGORY = {"id": INTEGER, "name": NON_EMPTY_STRING}


def register_coco(
    name: str,
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    vocabulary: Vocabulary | None = None,
) -> None:
    """Register a COCO instance file under a name for `DATASETS.TRAIN` and `DATASETS.TEST`.

        register_coco("shelves", "shelves/train.json", "shelves/images")

    The categories are read at once, the rest when the data set is first used. An entry of the same
    name is replaced.

    Args:
        name: name in the catalogs.
        json_file: COCO instances JSON.
        image_root: folder of the images.
        vocabulary: one class per category in the order of their ids, to add synonyms or better
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
    register_dataset(
        name,
        partial(load_coco_instances, json_file, image_root, contiguous),
        vocabulary=vocabulary,
        thing_classes=list(vocabulary.names),
        thing_dataset_id_to_contiguous_id=contiguous,
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
    )
