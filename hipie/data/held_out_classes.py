"""Classes that are left out of a training, to measure how a model recognises them by name alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from hipie.data.dataset_mappers.transforms import flip_text
from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary, name_key

KEY = "DATASETS.HELD_OUT_CLASSES"


def held_out_indices(names: Sequence[str], vocabulary: Vocabulary) -> frozenset[int]:
    """Return the classes of a vocabulary that are held out.

    Args:
        names: `DATASETS.HELD_OUT_CLASSES`. Names of classes, or of their synonyms; case does not
            count. "left" and "right" are held out together, since flips swap them.
        vocabulary: of a data set; names that it does not have are none of its classes.

    Raises:
        InputError: if no class would be left.
    """
    keys = {name_key(form) for name in names for form in (name, flip_text(name))}
    indices = frozenset(
        index
        for index, entry in enumerate(vocabulary.classes)
        if keys.intersection(map(name_key, (entry.name, *entry.synonyms)))
    )
    if indices and len(indices) == len(vocabulary.classes):
        raise InputError(f"{KEY} names all {len(indices)} classes of a data set")
    return indices


def require_held_out(cfg: CfgNode) -> None:
    """Check `DATASETS.HELD_OUT_CLASSES` against the data sets of the training.

    Args:
        cfg: reads DATASETS.{HELD_OUT_CLASSES, TRAIN} and INPUT.IGNORE_UNLABELLED.

    Raises:
        InputError: if a name is a class of none of the data sets, or unlabelled pixels are not
            ignored, so that objects of these classes would be negatives.
    """
    names = list(cfg.DATASETS.HELD_OUT_CLASSES)
    if not names:
        return
    if not cfg.INPUT.IGNORE_UNLABELLED:
        raise InputError(f"{KEY} needs INPUT.IGNORE_UNLABELLED True")
    vocabularies = [
        vocabulary_of(dataset)
        for dataset in cfg.DATASETS.TRAIN
        if _has_vocabulary(MetadataCatalog.get(dataset))
    ]
    for name in names:
        if not any(held_out_indices([name], vocabulary) for vocabulary in vocabularies):
            raise InputError(
                f"{KEY} names {name!r}, which is a class of no data set in DATASETS.TRAIN"
            )


def vocabulary_of(dataset_name: str) -> Vocabulary:
    """Return the vocabulary of a registered data set."""
    metadata = MetadataCatalog.get(dataset_name)
    return metadata.get("vocabulary") or Vocabulary.from_metadata(metadata)


def _has_vocabulary(metadata: Any) -> bool:
    keys = ("vocabulary", "thing_classes", "stuff_classes")
    return metadata.get("task", "universal") == "universal" and any(map(metadata.get, keys))
