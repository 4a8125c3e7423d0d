"""Decoder with masked attention (Mask2Former, Cheng et al., CVPR 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.box_ops import box_xyxy_to_cxcywh
from hipie.modeling.heads.mask_embedding_head import MaskEmbeddingHead
from hipie.modeling.heads.mlp import MLP
from hipie.modeling.pixel_decoder.maskdino_pixel_decoder import MaskDINOPixelDecoder
from hipie.modeling.transformer_decoder.layers import FeedForward, TransformerConfig
from hipie.modeling.transformer_decoder.position_encoding import sine_position_embedding
from hipie.structures import DecoderOutput, LayerOutput


class MaskedAttentionLayer(nn.Module):
    """Cross-attention inside the query's mask, self-attention among queries, feed-forward.

    Args:
        transformer: sizes.
    """

    def __init__(self, transformer: TransformerConfig) -> None:
        super().__init__()
        width, heads = transformer.width, transformer.num_heads
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_cross = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_self = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, transformer.dim_feedforward)
        for attention in (self.cross_attention, self.self_attention):
            nn.init.xavier_uniform_(attention.out_proj.weight)

    def forward(
        self, queries: Tensor, positions: Tensor, memory: Tensor, placed: Tensor, blocked: Tensor
    ) -> Tensor:
        """Update the queries.

        Args:
            queries: [B, Q, width].
            positions: [B, Q, width], added to queries and keys.
            memory: [B, S, width] one feature level.
            placed: [B, S, width], the level with its position embeddings.
            blocked: [B, Q, S] bool, pixels that a query must not attend to.

        Returns:
            [B, Q, width].
        """
        attended, _ = self.cross_attention(
            queries + positions,
            placed,
            memory,
            attn_mask=blocked.repeat_interleave(self.cross_attention.num_heads, dim=0),
            need_weights=False,
        )
        queries = self.norm_cross(queries + attended)
        own = queries + positions
        attended, _ = self.self_attention(own, own, queries, need_weights=False)
        result: Tensor = self.feed_forward(self.norm_self(queries + attended))
        return result


class Mask2FormerGenerator(nn.Module):
    """MaskDINO's pixel decoder, which is Mask2Former's, and a decoder with masked attention.

    Queries are learned. Layer i attends to level i modulo 3, the coarsest first, inside the mask
    that the layer before predicts; a query whose mask is empty attends everywhere. There are no
    boxes: those of the output are the extents of the masks.

    Args:
        pixel_decoder: of three levels.
        transformer: sizes of the decoder.
    """

    def __init__(self, pixel_decoder: MaskDINOPixelDecoder, transformer: TransformerConfig) -> None:
        super().__init__()
        width = transformer.width
        self.width = width
        self.pixel_decoder = pixel_decoder
        self.query_content = nn.Embedding(transformer.num_queries, width)
        self.query_position = nn.Embedding(transformer.num_queries, width)
        self.level_embedding = nn.Embedding(len(pixel_decoder.projections.levels), width)
        self.layers = nn.ModuleList(
            MaskedAttentionLayer(transformer) for _ in range(transformer.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.mask_embedding = MLP(width, width, width, 3)
        self.mask_head = MaskEmbeddingHead()

    def forward(self, features: Sequence[Tensor]) -> DecoderOutput:
        """Decode backbone features.

        Args:
            features: see `MaskDINOPixelDecoder.forward`.

        Returns:
            Predictions of every layer without logits, with those of the learned queries as
            `proposals`.
        """
        levels, mask_features = self.pixel_decoder(features)
        maps = levels.to_maps()
        memories = [
            level.flatten(2).transpose(1, 2) + self.level_embedding.weight[index]
            for index, level in enumerate(maps)
        ]
        placed = [
            memory
            + sine_position_embedding(
                level.new_zeros((len(level), *level.shape[2:]), dtype=torch.bool), self.width
            )
            .flatten(2)
            .transpose(1, 2)
            for memory, level in zip(memories, maps, strict=True)
        ]
        batch = len(mask_features)
        queries = self.query_content.weight.expand(batch, -1, -1)
        positions = self.query_position.weight.expand(batch, -1, -1)
        states: list[LayerOutput] = []
        layer_output, masks = self._predict(queries, mask_features)
        states.append(layer_output)
        for index, layer in enumerate(self.layers):
            level = index % len(maps)
            blocked = blocked_pixels(masks, (maps[level].shape[-2], maps[level].shape[-1]))
            queries = layer(queries, positions, memories[level], placed[level], blocked)
            layer_output, masks = self._predict(queries, mask_features)
            states.append(layer_output)
        rank = torch.arange(positions.shape[1], device=positions.device)
        return DecoderOutput(
            layers=tuple(states[1:]),
            mask_features=mask_features.unbind(0),
            references=states[0].boxes,
            proposal_index=rank.expand(batch, -1),
            proposals=states[0],
        )

    def _predict(self, queries: Tensor, mask_features: Tensor) -> tuple[LayerOutput, Tensor]:
        """Predictions of a state of the queries [B, Q, width], and its masks [B, Q, h, w]."""
        normed = self.norm(queries)
        embeddings = self.mask_embedding(normed)
        masks = (embeddings @ mask_features.flatten(2)).unflatten(2, mask_features.shape[-2:])
        return LayerOutput(mask_boxes(masks), None, normed, embeddings), masks


@torch.no_grad()
def blocked_pixels(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels of a feature level outside the masks.

    Args:
        mask_logits: [B, Q, h, w].
        size: (height, width) of the level.

    Returns:
        [B, Q, height * width] bool; none for a mask without pixels.
    """
    resized = F.interpolate(mask_logits.float(), size=size, mode="bilinear")
    blocked = resized.flatten(2) < 0
    return blocked & ~blocked.all(-1, keepdim=True)


@torch.no_grad()
def mask_boxes(mask_logits: Tensor) -> Tensor:
    """Extents of masks.

    Args:
        mask_logits: [B, Q, h, w].

    Returns:
        [B, Q, 4] cxcywh in 0..1; (0.5, 0.5, 1, 1) for a mask without pixels.
    """
    inside = mask_logits > 0
    low, high = [], []
    for dim in (-2, -1):  # columns, then rows
        line = inside.any(dim)
        length = line.shape[-1]
        position = torch.arange(length, device=line.device)
        low.append(torch.where(line, position, length).amin(-1) / length)
        high.append(torch.where(line, position + 1, 0).amax(-1) / length)
    boxes = torch.stack([low[0], low[1], high[0], high[1]], dim=-1)
    whole = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    is_empty = ~inside.flatten(2).any(-1, keepdim=True)
    return box_xyxy_to_cxcywh(torch.where(is_empty, whole, boxes))
