"""Multi-head attention between text, prompts and maps of different widths and lengths.

A map has thousands of tokens and an expression a few dozen. If one side is that short, the
projection of the long side is not computed: q . (W x) equals (W^T q) . x, so the short side is
multiplied by the long side's matrix instead ("folding"). The result is the same up to rounding,
with about half of the multiplications.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Folding needs a long side of at least this many times the length of the short side.
FOLDING_RATIO = 4


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        query_width: channels of the queries and of the result.
        key_width: channels of keys and values.
        inner_width: channels of all heads together.
        heads: number of heads.

    Raises:
        ValueError: if `inner_width` is no multiple of `heads`.
    """

    def __init__(self, query_width: int, key_width: int, inner_width: int, heads: int) -> None:
        super().__init__()
        if inner_width % heads:
            raise ValueError(f"a width of {inner_width} is not divisible by {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(query_width, inner_width)
        self.k_proj = nn.Linear(key_width, inner_width)
        self.v_proj = nn.Linear(key_width, inner_width)
        self.out_proj = nn.Linear(inner_width, query_width)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the attention.

        Args:
            query: [B, Q, query_width].
            key: [B, S, key_width].
            value: [B, S, key_width].
            key_mask: [B, S] bool, True for keys that may be attended to, at least one in each row.

        Returns:
            [B, Q, query_width].
        """
        if self._should_fold(key.shape[1], query.shape[1]):
            return self._forward_folded_keys(query, key, value, key_mask)
        mask = None if key_mask is None else key_mask[:, None, None]
        attended = F.scaled_dot_product_attention(
            self._split_heads(self.q_proj(query)),
            self._split_heads(self.k_proj(key)),
            self._split_heads(self.v_proj(value)),
            attn_mask=mask,
        )
        return self.out_proj(self._merge_heads(attended))

    def _forward_folded_keys(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        """Attention with keys and values multiplied by the query and output matrices."""
        keys = self._scale(self.k_proj(key))
        values = self._split_heads(self.v_proj(value))
        query_weight = self._by_head(self.q_proj.weight)
        scores = query @ torch.einsum("bhsd,hdc->bhsc", keys, query_weight).flatten(1, 2).mT
        scores = scores.unflatten(2, (self.heads, -1))
        query_bias = self._by_head(self.q_proj.bias)
        scores = scores + torch.einsum("bhsd,hd->bhs", keys, query_bias)[:, None]
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None], float("-inf"))
        weights = scores.softmax(-1).flatten(2)
        output_weight = self._by_head(self.out_proj.weight.T)
        projected = torch.einsum("bhsd,hdo->bhso", values, output_weight).flatten(1, 2)
        return weights.to(projected.dtype) @ projected + self.out_proj.bias

    def _should_fold(self, short: int, long: int) -> bool:
        """Whether folding a side of length `short` saves multiplications."""
        return self.heads * short < self.q_proj.out_features and long >= FOLDING_RATIO * short

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _scale(self, tokens: Tensor) -> Tensor:
        heads = self._split_heads(tokens)
        return heads * heads.shape[-1] ** -0.5

    def _merge_heads(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)

    def _by_head(self, parameter: Tensor) -> Tensor:
        return parameter.unflatten(0, (self.heads, -1))


class LevelAttention(Attention):
    """Attention over several maps: a softmax inside each map, and one over the maps.

    The weights of the maps are a linear projection of the query.

    Args:
        query_width, key_width, inner_width, heads: as for `Attention`.
        levels: number of maps.
    """

    def __init__(
        self, query_width: int, key_width: int, inner_width: int, heads: int, levels: int = 3
    ) -> None:
        super().__init__(query_width, key_width, inner_width, heads)
        self.level_weights = nn.Linear(query_width, heads * levels)

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, lengths: list[int]
    ) -> Tensor:
        """Compute the attention.

        Args:
            query: [B, Q, query_width].
            key: [B, S, key_width], the concatenated maps.
            value: [B, S, key_width], likewise.
            lengths: number of tokens of every map.

        Returns:
            [B, Q, query_width].
        """
        level_weights = self._split_heads(self.level_weights(query)).softmax(-1)
        if self._should_fold(query.shape[1], key.shape[1]):
            return self._forward_folded_queries(query, key, value, lengths, level_weights)
        queries = self._split_heads(self.q_proj(query))
        keys = self._split_heads(self.k_proj(key)).split(lengths, dim=2)
        values = self._split_heads(self.v_proj(value)).split(lengths, dim=2)
        output = torch.zeros_like(queries)
        for level, (k, v) in enumerate(zip(keys, values, strict=True)):
            attended = F.scaled_dot_product_attention(queries, k, v)
            output = output + level_weights[..., level, None] * attended
        return self.out_proj(self._merge_heads(output))

    def _forward_folded_queries(
        self, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], level_weights: Tensor
    ) -> Tensor:
        """Attention with queries multiplied by the key and value matrices."""
        queries = self._scale(self.q_proj(query))
        folded = torch.einsum("bhqd,hdc->bhqc", queries, self._by_head(self.k_proj.weight))
        scores = (folded.flatten(1, 2) @ key.mT).unflatten(1, (self.heads, -1))
        # Equal for all keys and without effect; kept as in the published network.
        bias = torch.einsum("bhqd,hd->bhq", queries, self._by_head(self.k_proj.bias))
        by_level = (scores + bias[..., None]).split(lengths, dim=3)
        weights = torch.cat(
            [
                level_scores.softmax(-1) * level_weights[..., level, None]
                for level, level_scores in enumerate(by_level)
            ],
            dim=3,
        )
        attended = (weights.flatten(1, 2).to(value.dtype) @ value).unflatten(1, (self.heads, -1))
        output = torch.einsum("bhqc,hdc->bhqd", attended, self._by_head(self.v_proj.weight))
        output = output + self._by_head(self.v_proj.bias)[:, None]
        return self.out_proj(self._merge_heads(output))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, inner_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner_width)
        self.fc2 = nn.Linear(inner_width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(F.gelu(self.fc1(tokens)))


def layer_norm(width: int) -> nn.LayerNorm:
    """Build the layer norm of ReferSAM's own modules."""
    return nn.LayerNorm(width, eps=1e-6)
