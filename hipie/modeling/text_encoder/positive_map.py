"""Positive maps: target tokens of objects for the text-similarity class heads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hipie.modeling.device_transfer import to_device
from hipie.modeling.text_encoder.tokenizer import load_tokenizer
from hipie.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
MIN_OCCURRENCES, MAX_OCCURRENCES = 2, 29


def positive_map(
    token_spans: Sequence[Sequence[int]], classes: Tensor | Sequence[int], length: int
) -> Tensor:
    """Mark the tokens of each object's class.

    Args:
        token_spans: K tuples of token positions of one caption.
        classes: [N] class index of each object.
        length: T, at least the caption's number of tokens.

    Returns:
        [N, T] bool, on the device of `classes`.
    """
    classes = torch.as_tensor(classes, dtype=torch.long)
    class_map = torch.zeros(len(token_spans), length, dtype=torch.bool)
    rows = [row for row, span in enumerate(token_spans) for _ in span]
    class_map[rows, [position for span in token_spans for position in span]] = True
    return class_map.to(classes.device)[classes]


def propagate_part_to_whole(
    positive: Tensor,
    input_ids: Tensor,
    wholes: Vocabulary | Collection[str] = PASCAL_WHOLES,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Tensor:
    """Mark the tokens of a whole's name as positive for its parts (hierarchical supervision).

    Where the name of a whole is a single token that occurs 2 to 29 times in the caption, an object
    that is positive for one occurrence becomes positive for all of them.

    Args:
        positive: [N, T] bool of `positive_map`.
        input_ids: [T] token ids of the caption.
        wholes: names of wholes, or a vocabulary whose parts define them; by default Pascal's.
        tokenizer: that produced `input_ids`; by default that of bert-base-uncased.

    Returns:
        [N, T] bool, a new tensor.
    """
    names = wholes.wholes if isinstance(wholes, Vocabulary) else wholes
    tokenizer = tokenizer or load_tokenizer("bert-base-uncased")
    tokenized = [tokenizer(name, add_special_tokens=False)["input_ids"] for name in names]
    tokens = torch.tensor(sorted({ids[0] for ids in tokenized if len(ids) == 1}), dtype=torch.long)
    occurrences = input_ids.to(positive.device) == to_device(tokens, positive.device)[:, None]
    counts = occurrences.sum(1, keepdim=True)
    occurrences &= (counts >= MIN_OCCURRENCES) & (counts <= MAX_OCCURRENCES)
    # Which of the W wholes an object is positive for, and from there all tokens of these wholes.
    of_wholes = occurrences.float()
    is_positive_for = (positive.float() @ of_wholes.T > 0).float()
    return positive | (is_positive_for @ of_wholes > 0)
