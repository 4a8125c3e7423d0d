"""Captions: what a text encoder reads, and where in it each class stands."""

from __future__ import annotations

from dataclasses import dataclass

from hipie.modeling.text_encoder.normalization import clean_expression
from hipie.vocabularies.normalization import clean_class_name
from hipie.vocabularies.vocabulary import Vocabulary

SEPARATOR = ". "


@dataclass(frozen=True)
class Caption:
    """A text with K named stretches.

    Attributes:
        text: what is read.
        spans: K pairs (start, end) of characters, `text[start:end]` is the name.
        expression: one sentence that is read in one piece and cut at the encoder's window, whereas
            a list of names of any length is read window by window.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    expression: bool = False


def vocabulary_caption(vocabulary: Vocabulary) -> Caption:
    """All class names in order, joined by ". ", without a full stop at the end."""
    names = [clean_class_name(name) for name in vocabulary.names]
    spans, start = [], 0
    for name in names:
        spans.append((start, start + len(name)))
        start += len(name) + len(SEPARATOR)
    return Caption(SEPARATOR.join(names), tuple(spans))


def expression_caption(expression: str) -> Caption:
    """A referring expression, cleaned; its one span is all of it.

    Raises:
        ValueError: if no letter or digit is left of it.
    """
    if not isinstance(expression, str):
        raise ValueError(f"an expression must be a string, not {expression!r}")
    text = clean_expression(expression)
    if not any(letter.isalnum() for letter in text):
        raise ValueError(f'the expression "{expression}" has no word in it')
    return Caption(text, ((0, len(text)),), expression=True)
