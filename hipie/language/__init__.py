"""Old import path of `hipie.vocabularies`: `from hipie.language import Vocabulary`."""

from hipie.vocabularies import (
    Parts,
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    root_wholes,
)

__all__ = ["Parts", "Vocabulary", "VocabularyClass", "VocabularyError", "root_wholes"]
