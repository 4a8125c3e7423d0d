"""Class vocabularies and the class tables of the public data sets."""

from hipie.vocabularies.tables import (
    ClassTable,
    collection_datasets,
    load_classes,
    load_vocabulary,
    vocabulary_names,
)
from hipie.vocabularies.vocabulary import (
    Parts,
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    clean_class_name,
    parse_names,
    parse_parts,
    read_names,
    read_parts,
    root_wholes,
)

__all__ = [
    "ClassTable",
    "Parts",
    "Vocabulary",
    "VocabularyClass",
    "VocabularyError",
    "clean_class_name",
    "collection_datasets",
    "load_classes",
    "load_vocabulary",
    "parse_names",
    "parse_parts",
    "read_names",
    "read_parts",
    "root_wholes",
    "vocabulary_names",
]
