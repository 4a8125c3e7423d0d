"""Captions: what a text encoder reads, and where in it each class stands."""

from __future__ import annotations

from dataclasses import dataclass

from hipie.language.cleaning import clean_class_name, clean_sentence
from hipie.language.vocabulary import Vocabulary

SEPARATOR = ". "


@dataclass(frozen=True)
class Caption:
    """A text with K named stretches.

    Attributes:
        text: what is read.
        spans: K pairs (start, end) of characters, `text[start:end]` is the name.
        sentence: one sentence that is read in one piece and cut at the encoder's window, whereas
            a list of names of any length is read window by window.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    sentence: bool = False


def vocabulary_caption(vocabulary: Vocabulary) -> Caption:
    """All class names in order, joined by ". ", without a full stop at the end."""
    names = [clean_class_name(name) for name in vocabulary.names]
    spans, start = [], 0
    for name in names:
        spans.append((start, start + len(name)))
        start += len(name) + len(SEPARATOR)
    return Caption(SEPARATOR.join(names), tuple(spans))


def expression_caption(sentence: str) -> Caption:
    """A referring sentence, cleaned; its one span is all of it.

    Raises:
        ValueError: if no letter or digit is left of it.
    """
    if not isinstance(sentence, str):
        raise ValueError(f"a sentence must be a string, not {sentence!r}")
    text = clean_sentence(sentence)
    if not any(letter.isalnum() for letter in text):
        raise ValueError(f'the sentence "{sentence}" has no word in it')
    return Caption(text, ((0, len(text)),), sentence=True)
