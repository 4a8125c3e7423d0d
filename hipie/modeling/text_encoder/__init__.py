"""Text encoders, tokenization, and captions of vocabularies and referring expressions."""

from hipie.modeling.text_encoder.base import (
    TEXT_ENCODER_REGISTRY,
    TextEncoder,
    build_text_encoder,
)
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.caption import Caption, expression_caption, vocabulary_caption
from hipie.modeling.text_encoder.positive_map import positive_map, propagate_part_to_whole
from hipie.modeling.text_encoder.tokenizer import count_tokens, load_tokenizer, tokenize

__all__ = [
    "TEXT_ENCODER_REGISTRY",
    "BertTextEncoder",
    "Caption",
    "TextEncoder",
    "build_text_encoder",
    "count_tokens",
    "expression_caption",
    "load_tokenizer",
    "positive_map",
    "propagate_part_to_whole",
    "tokenize",
    "vocabulary_caption",
]
