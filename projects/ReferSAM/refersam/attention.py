"""Attention between words, prompts and maps, whose two sides may differ in width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Plain multi-head attention.

    Args:
        query_width: channels of the queries and of the result.
        key_width: channels of keys and values.
        inner_width: channels that the heads share.
        heads: how many.
    """

    def __init__(self, query_width: int, key_width: int, inner_width: int, heads: int) -> None:
        super().__init__()
        if inner_width % heads:
            raise ValueError(f"a width of {inner_width} does not divide by {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(query_width, inner_width)
        self.k_proj = nn.Linear(key_width, inner_width)
        self.v_proj = nn.Linear(key_width, inner_width)
        self.out_proj = nn.Linear(inner_width, query_width)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            query: [B, Q, query_width].
            key, value: [B, S, key_width].
            key_mask: [B, S] bool, True where a key counts; every row has one that does.

        Returns:
            [B, Q, query_width].
        """
        mask = None if key_mask is None else key_mask[:, None, None]
        found = F.scaled_dot_product_attention(
            self._split(self.q_proj(query)),
            self._split(self.k_proj(key)),
            self._split(self.v_proj(value)),
            attn_mask=mask,
        )
        return self.out_proj(self._join(found))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _join(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)


class LevelAttention(Attention):
    """Attention over several maps: a softmax inside each, and one over the maps.

    Which map counts how much is told by the query as it comes in, before its projection.

    Args:
        query_width, key_width, inner_width, heads: as for `Attention`.
        levels: maps.
    """

    def __init__(
        self, query_width: int, key_width: int, inner_width: int, heads: int, levels: int = 3
    ) -> None:
        super().__init__(query_width, key_width, inner_width, heads)
        self.level_weights = nn.Linear(query_width, heads * levels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, lengths: list[int]) -> Tensor:
        """Attend.

        Args:
            query: [B, Q, query_width].
            key, value: [B, S, key_width], the maps one after another.
            lengths: tokens of every map.

        Returns:
            [B, Q, query_width].
        """
        queries = self._split(self.q_proj(query))
        keys = self._split(self.k_proj(key)).split(lengths, dim=2)
        values = self._split(self.v_proj(value)).split(lengths, dim=2)
        weights = self._split(self.level_weights(query)).softmax(-1)
        found = torch.zeros_like(queries)
        for level, (k, v) in enumerate(zip(keys, values, strict=True)):
            inside = F.scaled_dot_product_attention(queries, k, v)
            found = found + weights[..., level, None] * inside
        return self.out_proj(self._join(found))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, on the last axis."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(F.gelu(self.fc1(tokens)))


def layer_norm(width: int) -> nn.LayerNorm:
    """The layer norm of all of ReferSAM's own parts."""
    return nn.LayerNorm(width, eps=1e-6)
