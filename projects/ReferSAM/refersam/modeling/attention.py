"""Attention between words, prompts and maps, whose two sides may differ in width and number.

A map has thousands of tokens and an expression a few dozen. Where one side is so short, the projection
of the long one is not computed: q . (W x) is (W' q) . x, so the short side is taken through the
long side's matrix instead. What comes out is the same up to rounding, with about half of the
multiplications.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The long side is at least so many times the short one before folding is thought of.
MUCH_LONGER = 4


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
        if self._folds(key.shape[1], query.shape[1]):
            return self._many_queries(query, key, value, key_mask)
        mask = None if key_mask is None else key_mask[:, None, None]
        found = F.scaled_dot_product_attention(
            self._split(self.q_proj(query)),
            self._split(self.k_proj(key)),
            self._split(self.v_proj(value)),
            attn_mask=mask,
        )
        return self.out_proj(self._join(found))

    def _many_queries(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """The same, with the keys and values taken through the queries' two matrices."""
        keys = self._scaled(self.k_proj(key))
        values = self._split(self.v_proj(value))
        by_head = self._by_head(self.q_proj.weight)
        scores = query @ torch.einsum("bhsd,hdc->bhsc", keys, by_head).flatten(1, 2).mT
        scores = scores.unflatten(2, (self.heads, -1))
        scores = (
            scores + torch.einsum("bhsd,hd->bhs", keys, self._by_head(self.q_proj.bias))[:, None]
        )
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None], float("-inf"))
        shares = scores.softmax(-1).flatten(2)
        out = self._by_head(self.out_proj.weight.T)
        read = torch.einsum("bhsd,hdo->bhso", values, out).flatten(1, 2)
        return shares.to(read.dtype) @ read + self.out_proj.bias

    def _folds(self, short: int, long: int) -> bool:
        """Whether folding the short side saves work."""
        return self.heads * short < self.q_proj.out_features and long >= MUCH_LONGER * short

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _scaled(self, tokens: Tensor) -> Tensor:
        heads = self._split(tokens)
        return heads * heads.shape[-1] ** -0.5

    def _join(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)

    def _by_head(self, parameter: Tensor) -> Tensor:
        return parameter.unflatten(0, (self.heads, -1))


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
        weights = self._split(self.level_weights(query)).softmax(-1)
        if self._folds(query.shape[1], key.shape[1]):
            return self._few_queries(query, key, value, lengths, weights)
        queries = self._split(self.q_proj(query))
        keys = self._split(self.k_proj(key)).split(lengths, dim=2)
        values = self._split(self.v_proj(value)).split(lengths, dim=2)
        found = torch.zeros_like(queries)
        for level, (k, v) in enumerate(zip(keys, values, strict=True)):
            inside = F.scaled_dot_product_attention(queries, k, v)
            found = found + weights[..., level, None] * inside
        return self.out_proj(self._join(found))

    def _few_queries(
        self, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], weights: Tensor
    ) -> Tensor:
        """The same, with the queries taken through the keys' and values' matrices."""
        queries = self._scaled(self.q_proj(query))
        folded = torch.einsum("bhqd,hdc->bhqc", queries, self._by_head(self.k_proj.weight))
        scores = (folded.flatten(1, 2) @ key.mT).unflatten(1, (self.heads, -1))
        # Equal for all keys, so without effect, but the published network has it.
        same = torch.einsum("bhqd,hd->bhq", queries, self._by_head(self.k_proj.bias))
        inside = [part.softmax(-1) for part in (scores + same[..., None]).split(lengths, dim=3)]
        shares = torch.cat(
            [part * weights[..., level, None] for level, part in enumerate(inside)], dim=3
        )
        read = (shares.flatten(1, 2).to(value.dtype) @ value).unflatten(1, (self.heads, -1))
        found = torch.einsum("bhqc,hdc->bhqd", read, self._by_head(self.v_proj.weight))
        found = found + self._by_head(self.v_proj.bias)[:, None]
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
