"""What a text encoder says of a batch of captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TokenSpans = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TextFeatures:
    """Features of B captions, padded to the longest.

    Attributes:
        hidden: [B, T, C] one vector a token, zero where padded.
        mask: [B, T] bool, True = a real token (start and end markers included).
        input_ids: [B, T] int64.
        token_spans: B times K tuples of positions, the tokens of each class.
    """

    hidden: Tensor
    mask: Tensor
    input_ids: Tensor
    token_spans: tuple[TokenSpans, ...]

    def __len__(self) -> int:
        return len(self.hidden)

    def pooled(self) -> Tensor:
        """[B, 1, C] the mean over all real tokens, start and end markers included."""
        weight = self.mask.unsqueeze(-1).to(self.hidden.dtype)
        return (self.hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True)

    def with_hidden(self, hidden: Tensor) -> TextFeatures:
        """The same captions with other features [B, T, C'], for example fused ones."""
        return replace(self, hidden=hidden)

    def select(self, rows: Sequence[int] | Tensor) -> TextFeatures:
        """Captions by row, in the order given; a row may come several times or not at all."""
        index = torch.as_tensor(rows, dtype=torch.long, device=self.hidden.device)
        return TextFeatures(
            self.hidden[index],
            self.mask[index],
            self.input_ids[index],
            tuple(self.token_spans[row] for row in index.tolist()),
        )

    def expand(self, size: int) -> TextFeatures:
        """One caption for `size` images, without a copy of its features.

        Raises:
            ValueError: if there is not exactly one caption.
        """
        if len(self) != 1:
            raise ValueError(f"only a single caption can be expanded, not {len(self)}")
        return TextFeatures(
            self.hidden.expand(size, -1, -1),
            self.mask.expand(size, -1),
            self.input_ids.expand(size, -1),
            self.token_spans * size,
        )
