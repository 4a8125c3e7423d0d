"""Post-norm transformer layers with multi-scale deformable attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hipie.modeling.chunking import chunk_length, concatenate, split
from hipie.ops import MSDeformAttn
from hipie.structures import FeatureLevels

# On a CPU an encoder layer processes so many tokens at a time.
TOKENS_PER_CHUNK = 2048


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a deformable transformer.

    Attributes:
        width: channels of tokens and queries.
        num_queries: matching queries of the decoder.
        encoder_layers, decoder_layers: number of layers.
        num_heads: heads of every attention.
        num_points: sampling points a head and level of deformable attention.
        dim_feedforward: hidden channels of the feed-forward blocks.
    """

    width: int = 256
    num_queries: int = 300
    encoder_layers: int = 6
    decoder_layers: int = 6
    num_heads: int = 8
    num_points: int = 4
    dim_feedforward: int = 2048


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
    """Multi-scale deformable attention encoder layer.

    Self-attention over the tokens of all levels, then a feed-forward block. On a CPU the
    queries are processed in chunks of about two thousand tokens: intermediate results then stay in
    the processor's cache, which is faster and bounds the memory.

    Args:
        transformer: sizes.
        levels: number of feature levels.
    """

    # The number of chunks depends on the size; see `hipie.modeling.compilation`.
    compiled_methods: ClassVar[tuple[str, ...]] = ("_encode_chunk",)

    def __init__(self, transformer: TransformerConfig, levels: int) -> None:
        super().__init__()
        width = transformer.width
        self.attention = MSDeformAttn(width, levels, transformer.num_heads, transformer.num_points)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, transformer.dim_feedforward)

    def forward(
        self,
        tokens: Tensor,
        levels: FeatureLevels,
        reference_points: Tensor,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Encode tokens.

        Args:
            tokens: [B, S, width].
            levels: their positions and shapes.
            reference_points: [B, S, L, 2] of every token on every level's canvas.
            padding_mask: [B, S] bool, True where padded, or None.

        Returns:
            [B, S, width].
        """
        step = chunk_length(tokens.shape[1], TOKENS_PER_CHUNK // len(tokens), tokens.device)
        chunks = split(tokens, step, dim=1)
        masks: Sequence[Tensor | None] = [None] * len(chunks)
        if padding_mask is not None:
            masks = split(padding_mask, step, dim=1)
        values = concatenate(
            [self.attention.values(chunk, mask) for chunk, mask in zip(chunks, masks, strict=True)],
            dim=1,
        )
        return concatenate(
            [
                self._encode_chunk(chunk, positions, points, values, levels)
                for chunk, positions, points in zip(
                    chunks,
                    split(levels.position_embeddings, step, dim=1),
                    split(reference_points, step, dim=1),
                    strict=True,
                )
            ],
            dim=1,
        )

    def _encode_chunk(
        self,
        tokens: Tensor,
        positions: Tensor,
        reference_points: Tensor,
        values: Tensor,
        levels: FeatureLevels,
    ) -> Tensor:
        attended = self.attention.attend(
            tokens + positions,
            reference_points,
            values,
            levels.spatial_shapes,
            levels.level_start_index,
        )
        return self.feed_forward(self.norm(tokens + attended))


class DecoderLayer(nn.Module):
    """Self-attention among queries, deformable cross-attention to the memory, feed-forward.

    Args:
        transformer: sizes.
        levels: number of feature levels.
    """

    def __init__(self, transformer: TransformerConfig, levels: int) -> None:
        super().__init__()
        width, heads = transformer.width, transformer.num_heads
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_self = nn.LayerNorm(width)
        self.cross_attention = MSDeformAttn(width, levels, heads, transformer.num_points)
        self.norm_cross = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, transformer.dim_feedforward)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        references: Tensor,
        memory: Tensor,
        levels: FeatureLevels,
        *,
        padding_mask: Tensor | None,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """Update the queries.

        Args:
            queries: [B, N, width].
            positions: [B, N, width].
            references: [B, N, L, 4] boxes on every level's canvas.
            memory: [B, S, width].
            levels: shapes and start indices of the memory's levels.
            padding_mask: [B, S] bool, True where padded.
            attention_mask: [N, N] bool, True where a query (row) must not attend (column).

        Returns:
            [B, N, width].
        """
        placed = queries + positions
        attended, _ = self.self_attention(
            placed, placed, queries, attn_mask=attention_mask, need_weights=False
        )
        queries = self.norm_self(queries + attended)
        attended = self.cross_attention(
            queries + positions,
            references,
            memory,
            levels.spatial_shapes,
            levels.level_start_index,
            padding_mask,
        )
        return self.feed_forward(self.norm_cross(queries + attended))
