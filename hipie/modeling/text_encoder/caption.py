"""Captions of vocabularies and referring expressions, and their windows for text encoders."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from hipie.errors import InputError, describe, printable
from hipie.vocabularies.vocabulary import Vocabulary, clean_class_name, require_text

SEPARATOR = ". "
MAX_EXPRESSION_CHARACTERS = 10_000
"""Characters of an expression that are tokenized; the longest window has 512 tokens."""
_REMOVED = dict.fromkeys(map(ord, ".,'!?\"()*#:;"))
_REPLACED_BY_SPACE = dict.fromkeys(map(ord, "-/"), " ")


@dataclass(frozen=True)
class Caption:
    """Input text of a text encoder with the character spans of K classes.

    Attributes:
        text: the text.
        spans: K pairs (start, end) of character offsets; `text[start:end]` is the class name.
        expression: whether the text is one referring expression, which is truncated at the
            encoder's window; a list of class names is encoded window by window instead.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    expression: bool = False


def vocabulary_caption(vocabulary: Vocabulary) -> Caption:
    """Join all class names with ". " in the vocabulary's order, without a final full stop."""
    names = [clean_class_name(name) for name in vocabulary.names]
    spans, start = [], 0
    for name in names:
        spans.append((start, start + len(name)))
        start += len(name) + len(SEPARATOR)
    return Caption(SEPARATOR.join(names), tuple(spans))


def expression_caption(expression: str) -> Caption:
    """Normalize a referring expression; its single span covers the text.

    A text that is far longer than any encoder's window is cut first, see `cut_expression`.

    Raises:
        ValueError: if no letter or digit remains.
    """
    if not isinstance(expression, str):
        raise InputError(f"an expression must be a string, not {describe(expression)}")
    expression = cut_expression(expression)
    require_text(expression, "expression")
    text = clean_expression(expression)
    if not any(character.isalnum() for character in text):
        raise InputError(f'the expression "{printable(expression)}" contains no letter or digit')
    return Caption(text, ((0, len(text)),), expression=True)


def cut_expression(expression: str) -> str:
    """Return at most `MAX_EXPRESSION_CHARACTERS` of a text, with a warning where it is longer.

    A tokenizer takes a minute for a megabyte, of which an encoder's window holds the first words.
    """
    if len(expression) <= MAX_EXPRESSION_CHARACTERS:
        return expression
    warnings.warn(
        f'the expression "{printable(expression, 40)}" has {len(expression):,} characters; '
        f"only the first {MAX_EXPRESSION_CHARACTERS:,} are used",
        stacklevel=3,
    )
    return expression[:MAX_EXPRESSION_CHARACTERS]


def clean_expression(expression: str) -> str:
    """Lower-case an expression, drop punctuation, and replace hyphens and slashes by spaces."""
    return " ".join(expression.lower().translate(_REMOVED).translate(_REPLACED_BY_SPACE).split())


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of a tokenizer's start, end, padding and full-stop tokens."""

    start: int
    end: int
    padding: int
    full_stop: int


@dataclass(frozen=True)
class Window:
    """One input sequence of a text encoder.

    Attributes:
        ids: token ids.
        offset: position in the caption of the first token that is kept.
        skip: number of leading ids that are not part of the caption.
    """

    ids: tuple[int, ...]
    offset: int
    skip: int


def split_into_windows(
    ids: Sequence[int], special_tokens: SpecialTokens, window: int = 512
) -> list[Window]:
    """Split a caption into sequences of at most `window` tokens that together contain it.

    A caption that fits is one window. Otherwise each window ends at the last full stop (or end
    token) among the next `window - 2` ids, and that token is replaced by the end token; all
    windows but the first are prefixed by a start token. The features of the full stops at the
    borders are therefore those of end tokens, as in the published HIPIE.

    Args:
        ids: token ids of the caption, start and end tokens included.
        special_tokens: of the tokenizer.
        window: maximum length of a sequence.

    Raises:
        ValueError: if a sequence of that length contains no full stop.
    """
    if len(ids) <= window:
        return [Window(tuple(ids), 0, 0)]
    windows: list[Window] = []
    start = 0
    while start < len(ids):
        candidates = ids[start : start + window - 2]
        ends = [
            position
            for position, token in enumerate(candidates)
            if token in (special_tokens.full_stop, special_tokens.end)
        ]
        if not ends:
            raise InputError(
                f"tokens {start} to {start + window - 2} of a caption contain no full stop "
                "between two class names where the caption could be split"
            )
        segment_ids = (*candidates[: ends[-1]], special_tokens.end)
        prefix = (special_tokens.start,) if start else ()
        windows.append(Window(prefix + segment_ids, start, len(prefix)))
        start += len(segment_ids)
    return windows
