"""Encoded captions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextFeatures:
    """B captions, padded to the longest.

    Attributes:
        hidden: [B, T, C].
        mask: [B, T] bool, True for real word pieces.
        input_ids: [B, T] int64.
        token_spans: for every caption, for every class, its token positions.
    """

    hidden: Tensor
    mask: Tensor
    input_ids: Tensor
    token_spans: tuple[tuple[tuple[int, ...], ...], ...]

    def pooled(self) -> Tensor:
        """[B, 1, C] mean over the real word pieces, [CLS] and [SEP] included."""
        weight = self.mask[..., None].to(self.hidden.dtype)
        return (self.hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)

    def with_hidden(self, hidden: Tensor) -> TextFeatures:
        """The same captions with other features [B, T, C]."""
        return replace(self, hidden=hidden)


def positive_map(
    token_spans: tuple[tuple[int, ...], ...], classes: Tensor, length: int
) -> Tensor:
    """Which word pieces name each object.

    Args:
        token_spans: K tuples of token positions.
        classes: [N] int64, the class of every object.
        length: T.

    Returns:
        [N, T] bool.
    """
    table = torch.zeros(len(token_spans), length, dtype=torch.bool)
    for row, span in enumerate(token_spans):
        table[row, list(span)] = True
    return table[classes.cpu()]


def spread_wholes(
    positive: Tensor, input_ids: Tensor, whole_ids: frozenset[int], most: int = 29
) -> Tensor:
    """Make objects that are positive for one occurrence of a whole's name positive for all.

    This is how parts and wholes share words in part training.

    Args:
        positive: [N, T] bool.
        input_ids: [T] int64, the caption.
        whole_ids: ids of names that are one word piece.
        most: a piece that occurs more often is left alone, as is one that occurs once.

    Returns:
        [N, T] bool.
    """
    spread = positive.clone()
    for piece in set(input_ids.tolist()) & whole_ids:
        places = (input_ids == piece).nonzero()[:, 0].to(positive.device)
        if 2 <= len(places) <= most:
            anywhere = positive[:, places].any(1)
            spread[:, places] |= anywhere[:, None]
    return spread
