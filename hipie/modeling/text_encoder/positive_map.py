"""Which tokens name an object: the targets of the text class heads."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hipie.modeling.text_encoder.tokenizer import load_tokenizer
from hipie.vocabularies.vocabulary import Vocabulary

PASCAL_WHOLES = (
    "aeroplane",
    "bicycle",
    "bird",
    "bottle",
    "bus",
    "car",
    "cat",
    "cow",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "train",
    "tvmonitor",
)
FEWEST, MOST = 2, 29


def positive_map(
    token_spans: Sequence[Sequence[int]], classes: Tensor | Sequence[int], length: int
) -> Tensor:
    """The tokens of each object's class.

    Args:
        token_spans: K tuples of positions, those of one caption.
        classes: [N] index of each object's class.
        length: T, at least the caption's.

    Returns:
        [N, T] bool, on the device of `classes`.
    """
    classes = torch.as_tensor(classes, dtype=torch.long)
    table = torch.zeros(len(token_spans), length, dtype=torch.bool)
    rows = [row for row, span in enumerate(token_spans) for _ in span]
    table[rows, [position for span in token_spans for position in span]] = True
    return table.to(classes.device)[classes]


def propagate_part_to_whole(
    positive: Tensor,
    input_ids: Tensor,
    wholes: Vocabulary | Collection[str] = PASCAL_WHOLES,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Tensor:
    """Let parts of one whole share its name: HIPIE's hierarchical supervision.

    A whole's name that is a single token and stands 2 to 29 times in the caption is one
    word: an object that is positive for one of its occurrences becomes positive for all.

    Args:
        positive: [N, T] bool of `positive_map`.
        input_ids: [T] the caption's tokens.
        wholes: names, or a vocabulary whose parts tell them; by default Pascal's.
        tokenizer: where `input_ids` come from; bert-base-uncased's by default.

    Returns:
        [N, T] bool.
    """
    names = wholes.wholes if isinstance(wholes, Vocabulary) else wholes
    tokenizer = tokenizer or load_tokenizer("bert-base-uncased")
    pieces = [tokenizer(name, add_special_tokens=False)["input_ids"] for name in names]
    spread = positive.clone()
    for piece in {one[0] for one in pieces if len(one) == 1}:
        here = (input_ids == piece).to(positive.device)
        if FEWEST <= int(here.sum()) <= MOST:
            spread |= (positive & here).any(1, keepdim=True) & here
    return spread
