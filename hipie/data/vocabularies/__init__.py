"""Old import path of `hipie.vocabularies`: `from hipie.data.vocabularies import load_vocabulary`."""

from hipie.vocabularies import (
    ClassTable,
    collection,
    load_classes,
    load_vocabulary,
    seen_classes,
    vocabulary_names,
)

__all__ = [
    "ClassTable",
    "collection",
    "load_classes",
    "load_vocabulary",
    "seen_classes",
    "vocabulary_names",
]
