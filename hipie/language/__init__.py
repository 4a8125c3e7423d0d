"""Words: vocabularies and sentences become captions, captions become features."""

from hipie.language.caption import Caption, expression_caption, vocabulary_caption
from hipie.language.encoder import TextEncoder
from hipie.language.features import TextFeatures
from hipie.language.positive_map import PASCAL_WHOLES, positive_map, spread_wholes
from hipie.language.tokens import count_pieces, load_tokenizer
from hipie.language.vocabulary import (
    Parts,
    Vocabulary,
    VocabularyClass,
    VocabularyError,
    root_wholes,
)

__all__ = [
    "PASCAL_WHOLES",
    "Caption",
    "Parts",
    "TextEncoder",
    "TextFeatures",
    "Vocabulary",
    "VocabularyClass",
    "VocabularyError",
    "count_pieces",
    "expression_caption",
    "load_tokenizer",
    "positive_map",
    "root_wholes",
    "spread_wholes",
    "vocabulary_caption",
]
