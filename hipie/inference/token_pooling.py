"""From logits a word piece to logits a class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

MASKED = -9999.0


def pool_tokens(
    token_logits: Tensor, token_spans: Sequence[Sequence[int]], how: str = "mean"
) -> Tensor:
    """One logit a class: the mean or the maximum over its word pieces.

    Args:
        token_logits: [Q, T].
        token_spans: K sequences of token positions, none empty.
        how: "mean" or "max".

    Returns:
        [Q, K] float32.

    Raises:
        ValueError: for another `how`.
    """
    logits = token_logits.float()
    lengths = torch.tensor([len(span) for span in token_spans], device=logits.device)
    positions = torch.tensor([p for span in token_spans for p in span], device=logits.device)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=logits.device), lengths)
    pieces = logits[:, positions]
    if how == "mean":
        total = logits.new_zeros(len(logits), len(lengths)).index_add_(1, owner, pieces)
        return total / lengths
    if how == "max":
        lowest = logits.new_full((len(logits), len(lengths)), float("-inf"))
        return lowest.scatter_reduce_(1, owner.expand(len(logits), -1), pieces, "amax")
    raise ValueError(f'token pooling is "mean" or "max", not "{how}"')


def mask_classes(class_logits: Tensor, hidden: Tensor) -> Tensor:
    """Set the columns of `hidden` [K] bool to -9999, so that their sigmoid is 0."""
    return class_logits.masked_fill(hidden, MASKED)
