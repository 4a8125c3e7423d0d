"""Class names that a model is trained with."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from hipie.data.datasets.catalog import complete_metadata
from hipie.data.label_values import background_index
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass, VocabularyError, name_key


def training_vocabulary(names: Sequence[str]) -> Vocabulary | None:
    """Return the classes of training sets, each once, without backgrounds; None without any.

    Args:
        names: registered data sets, `DATASETS.TRAIN`; unknown ones and those of expressions have
            no classes.
    """
    classes: dict[str, VocabularyClass] = {}
    for name in names:
        if name not in MetadataCatalog:
            continue
        complete_metadata(name)
        metadata = MetadataCatalog.get(name)
        try:
            vocabulary = Vocabulary.from_metadata(metadata)
        except VocabularyError:
            continue  # of expressions
        background = background_index(metadata, vocabulary.names)
        for index, entry in enumerate(vocabulary.classes):
            if index != background:
                classes.setdefault(name_key(entry.name), entry)
    return Vocabulary(tuple(classes.values())) if classes else None
