"""Class vocabularies: `Vocabulary`, and the tables of the public data sets (`load_vocabulary`)."""

from hipie.vocabularies.tables import (
    ClassTable,
    collection,
    load_classes,
    load_vocabulary,
    seen_classes,
    vocabulary_names,
)
from hipie.vocabularies.vocabulary import (
    Parts,
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    root_wholes,
)

__all__ = [
    "ClassTable",
    "Parts",
    "Vocabulary",
    "VocabularyClass",
    "VocabularyError",
    "collection",
    "load_classes",
    "load_vocabulary",
    "root_wholes",
    "seen_classes",
    "vocabulary_names",
]
