"""Converter of released BERT weights (transformers' names) to those of a `BertTextEncoder`."""

from __future__ import annotations

import re

from hipie.checkpoint.converters.conversion import CheckpointConverter, Rename, rename_by_table

# Norms of files that were converted from TensorFlow.
_NORMS = {"gamma": "weight", "beta": "bias"}

RULES: tuple[Rename, ...] = (
    Rename(r"(?:bert\.)?pooler\..+", None),  # of the sentence, unused
    Rename(r"cls\..+", None),  # heads of the pre-training
    Rename(r"(?:bert\.)?embeddings\.position_ids", None),  # 0, 1, 2, ...
    *(
        Rename(rf"(?:bert\.)?((?:embeddings|encoder)\..*LayerNorm)\.{old}", rf"model.\1.{new}")
        for old, new in _NORMS.items()
    ),
    Rename(r"(?:bert\.)?((?:embeddings|encoder)\..+)", r"model.\1"),
)


def _is_bert(names: set[str]) -> bool:
    pattern = re.compile(r"(bert\.)?embeddings\.word_embeddings\.weight")
    return any(pattern.fullmatch(name) for name in names)


RELEASED_BERT = CheckpointConverter("released BERT", _is_bert, rename_by_table(RULES))
