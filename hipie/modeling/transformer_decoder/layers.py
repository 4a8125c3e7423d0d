"""The transformer layers of both branches: deformable encoder and decoder layers, post-norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from hipie.modeling.pixel_decoder.multi_scale_features import Levels
from hipie.ops import MSDeformAttn

TOKENS_AT_ONCE = 2048


class FeedForward(nn.Module):
    """Two linear layers with ReLU, a residual and a norm."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden_width)
        self.linear2 = nn.Linear(hidden_width, width)
        self.norm = nn.LayerNorm(width)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, width] -> the same."""
        return self.norm(x + self.linear2(self.linear1(x).relu()))


class EncoderLayer(nn.Module):
    """Deformable self-attention over all tokens of all levels, then a feed-forward block.

    A token reads the projected values of others, and is otherwise worked on alone. So without
    gradients the layer goes over the tokens some two thousand at a time: what it makes on the way
    stays in the processor's cache, which is quicker and takes hardly any memory.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn_width: int) -> None:
        super().__init__()
        self.attention = MSDeformAttn(width, levels, heads, points)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, ffn_width)

    def forward(
        self, tokens: Tensor, levels: Levels, centres: Tensor, padding_mask: Tensor | None
    ) -> Tensor:
        """Tokens [B, S, width], their centres [B, S, L, 2] -> [B, S, width]."""
        step = tokens.shape[1]
        if not torch.is_grad_enabled():
            step = max(1, TOKENS_AT_ONCE // len(tokens))
        values = joined(
            [self.attention.values(*some) for some in slices(step, tokens, padding_mask)]
        )
        parts = slices(step, tokens, levels.positions, centres)
        return joined([self._encoded(*some, values, levels) for some in parts])

    def _encoded(
        self, tokens: Tensor, positions: Tensor, centres: Tensor, values: Tensor, levels: Levels
    ) -> Tensor:
        """Some of the tokens [B, n, width], encoded."""
        attended = self.attention.attend(
            tokens + positions, centres, values, levels.shapes, levels.starts
        )
        return self.feed_forward(self.norm(tokens + attended))


def slices(step: int, *tensors: Tensor | None) -> Iterator[tuple[Tensor | None, ...]]:
    """Tensors [B, S, ...] cut along S into pieces of `step`; None stays None."""
    for start in range(0, tensors[0].shape[1], step):
        yield tuple(None if one is None else one[:, start : start + step] for one in tensors)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The inverse of `slices`; a single piece is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, feed-forward."""

    def __init__(self, width: int, heads: int, levels: int, points: int, ffn_width: int) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_self = nn.LayerNorm(width)
        self.cross_attention = MSDeformAttn(width, levels, heads, points)
        self.norm_cross = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, ffn_width)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: Levels,
        *,
        padding_mask: Tensor | None,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """One step of the decoder.

        Args:
            queries, positions: [B, N, width].
            references: [B, N, L, 4] boxes on every level's canvas.
            memory: [B, S, width].
            levels: shapes and starts of the memory's levels.
            padding_mask: [B, S] bool, True where padded.
            attention_mask: [N, N] bool, True where a query must not look.
        """
        placed = queries + positions
        attended, _ = self.self_attention(
            placed, placed, queries, attn_mask=attention_mask, need_weights=False
        )
        queries = self.norm_self(queries + attended)
        attended = self.cross_attention(
            queries + positions, references, memory, levels.shapes, levels.starts, padding_mask
        )
        return self.feed_forward(self.norm_cross(queries + attended))
