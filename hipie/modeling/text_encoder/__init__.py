"""Text encoders, tokenization, and captions of vocabularies and referring expressions."""

from hipie.modeling.text_encoder.bert import TextEncoder
from hipie.modeling.text_encoder.caption import Caption, expression_caption, vocabulary_caption
from hipie.modeling.text_encoder.features import TextFeatures
from hipie.modeling.text_encoder.positive_map import (
    PASCAL_WHOLES,
    positive_map,
    propagate_part_to_whole,
)
from hipie.modeling.text_encoder.tokenizer import count_pieces, load_tokenizer

__all__ = [
    "PASCAL_WHOLES",
    "Caption",
    "TextEncoder",
    "TextFeatures",
    "count_pieces",
    "expression_caption",
    "load_tokenizer",
    "positive_map",
    "propagate_part_to_whole",
    "vocabulary_caption",
]
