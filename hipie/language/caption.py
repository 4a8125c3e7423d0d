"""Class names and sentences as the captions that the text encoder reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from hipie.language.vocabulary import Vocabulary

SEPARATOR = ". "
_REMOVED = re.compile(r"[.,'!?\"()*#:;]")
_SPLIT = re.compile(r"[-/]")


@dataclass(frozen=True)
class Caption:
    """A text, and where each class stands in it.

    Attributes:
        text: what is encoded.
        spans: K pairs (first character, one past the last).
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@lru_cache(maxsize=256)
def vocabulary_caption(vocabulary: Vocabulary) -> Caption:
    """Cleaned names joined by ". ", without a full stop at the end.

    Raises:
        ValueError: if nothing is left of a name.
    """
    position, spans, names = 0, [], []
    for name in vocabulary.names:
        cleaned = clean_name(name)
        if not cleaned.strip():
            raise ValueError(f'nothing is left of the class name "{name}" without its brackets')
        spans.append((position, position + len(cleaned)))
        names.append(cleaned)
        position += len(cleaned) + len(SEPARATOR)
    return Caption(SEPARATOR.join(names), tuple(spans))


def expression_caption(sentence: str) -> Caption:
    """A cleaned sentence as one class.

    Raises:
        ValueError: if the sentence has no word.
    """
    cleaned = clean_expression(sentence)
    if not any(letter.isalnum() for letter in cleaned):
        raise ValueError(f'the sentence "{sentence}" has no word')
    return Caption(cleaned, ((0, len(cleaned)),))


def clean_name(name: str) -> str:
    """Drop what stands in brackets, turn "_" into a space, and shorten double spaces once."""
    return re.sub(r"\(.*\)", "", name).replace("_", " ").replace("  ", " ")


def clean_expression(sentence: str) -> str:
    """Lower case without punctuation; "-" and "/" become spaces."""
    return _SPLIT.sub(" ", _REMOVED.sub("", sentence.lower())).strip()
