"""Registration of custom label maps: folders of images and maps, and a file of class names."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from hipie.data.datasets.catalog import register_dataset
from hipie.data.datasets.class_names_file import read_class_names
from hipie.data.datasets.semantic_folder import load_class_maps
from hipie.data.io.validation import DatasetError
from hipie.data.label_values import DEFAULT_IGNORE_LABEL
from hipie.vocabularies.vocabulary import (
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    name_key,
)

BACKGROUND_NAME = "background"
Path = str | os.PathLike[str]


def register_semantic(
    name: str,
    image_root: Path,
    label_root: Path,
    class_names: Path,
    ignore_label: int = DEFAULT_IGNORE_LABEL,
    *,
    background: str = BACKGROUND_NAME,
    label_suffix: str = "",
    image_suffix: str = "",
) -> None:
    """Register label maps under a name for `DATASETS.TRAIN` and `DATASETS.TEST`.

    The class names are read at once, the folders when the data set is first used. An entry of the
    same name is replaced.

    Args:
        name: name in the catalogs.
        image_root: folder of the images.
        label_root: folder of the maps, whose names are those of the images up to their ends; a
            pixel's value is the line of its class.
        class_names: file with one name a line, the first is that of the value 0.
        ignore_label: the value without annotation.
        background: the name of the background, if the file has it: its pixels are of none of the
            other classes, and it is never named to the model. In evaluation the pixels that no
            class claims are the background, which counts as a class. "" = all classes are named.
        label_suffix: end of the maps' names, such as "_gt.png"; "" = that of most files.
        image_suffix: likewise of the images.

    Raises:
        FileNotFoundError, DatasetError: if the file of class names cannot be used.
    """
    names = read_class_names(class_names)
    _require_integer(class_names, ignore_label)
    _register(
        name,
        class_names,
        tuple(VocabularyClass(entry, "stuff") for entry in names),
        _background(class_names, names, background),
        partial(
            load_class_maps,
            label_root,
            image_root,
            label_suffix=label_suffix,
            image_suffix=image_suffix,
        ),
        image_root=str(image_root),
        sem_seg_root=str(label_root),
        stuff_dataset_id_to_contiguous_id={i: i for i in range(len(names))},
        ignore_label=ignore_label,
        evaluator_type="sem_seg",
    )


def register_parts(
    name: str,
    image_root: Path,
    label_root: Path,
    class_names: Path,
    ignore_label: int = DEFAULT_IGNORE_LABEL,
    whole: str = "",
    *,
    background: str = BACKGROUND_NAME,
    label_suffix: str = "",
    image_suffix: str = "",
) -> None:
    """Register label maps of the parts of one whole, such as a face; see `register_semantic`.

    Class names join whole and part, as those of `Vocabulary.from_names`: "person hair". Connected
    components of a map are the objects that training learns.

    Args:
        name: name in the catalogs.
        image_root: folder of the images.
        label_root: folder of the maps.
        class_names: file with the name of one part a line.
        ignore_label: the value without annotation.
        whole: name of the class that the parts belong to.
        background: the name of what is no part.
        label_suffix: end of the maps' names.
        image_suffix: end of the images' names.

    Raises:
        FileNotFoundError, DatasetError: if the file of class names cannot be used.
    """
    names = read_class_names(class_names)
    _require_integer(class_names, ignore_label)
    background_class = _background(class_names, names, background)
    parts = {entry: f"{whole} {entry}" for entry in names if entry != background_class}
    _register(
        name,
        class_names,
        tuple(
            VocabularyClass(parts[entry], "part", whole=whole)
            if entry in parts
            else VocabularyClass(entry, "stuff")
            for entry in names
        ),
        background_class,
        partial(
            load_class_maps,
            label_root,
            image_root,
            key="part_seg_file_name",
            label_suffix=label_suffix,
            image_suffix=image_suffix,
        ),
        image_root=str(image_root),
        sem_seg_root=str(label_root),
        part_wholes=dict.fromkeys(parts.values(), whole),
        part_ignore_label=ignore_label,
        evaluator_type="parts",
    )


def _register(
    name: str,
    class_names: Path,
    classes: tuple[VocabularyClass, ...],
    background_class: str | None,
    load: Any,
    **metadata: Any,
) -> None:
    try:
        vocabulary = Vocabulary(classes)
    except VocabularyError as error:
        raise DatasetError(f"{class_names}: {error}") from error
    register_dataset(
        name,
        load,
        vocabulary=vocabulary,
        stuff_classes=list(vocabulary.names),
        background_class=background_class,
        **metadata,
    )


def _require_integer(class_names: Path, ignore_label: Any) -> None:
    if isinstance(ignore_label, bool) or not isinstance(ignore_label, int):
        raise DatasetError(
            f"{class_names}: the ignored value must be an integer, not {ignore_label!r}"
        )


def _background(class_names: Path, names: list[str], background: str) -> str | None:
    """Return the name of the background as the file has it, or None.

    Raises:
        DatasetError: if it is the only class.
    """
    if not background:
        return None
    matches = [name for name in names if name_key(name) == name_key(background)]
    if matches and len(names) == 1:
        raise DatasetError(f'{class_names}: "{names[0]}" is the only class')
    return matches[0] if matches else None
