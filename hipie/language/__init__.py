"""Class names and sentences: from words to the features that pixels are compared with."""

from hipie.language.caption import Caption, expression_caption, vocabulary_caption
from hipie.language.encoder import TextEncoder
from hipie.language.features import TextFeatures, positive_map, spread_wholes
from hipie.language.vocabulary import Vocabulary, VocabularyClass

__all__ = [
    "Caption",
    "TextEncoder",
    "TextFeatures",
    "Vocabulary",
    "VocabularyClass",
    "expression_caption",
    "positive_map",
    "spread_wholes",
    "vocabulary_caption",
]
