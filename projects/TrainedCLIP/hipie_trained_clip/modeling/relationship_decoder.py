"""Decoder of ZegCLIP: class queries from text and image, masks from their attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relationship_descriptor(text: Tensor, image: Tensor) -> Tensor:
    """Concatenate the products of text and image features with the text (ZegCLIP, eq. 6).

    Args:
        text: [K, D] unit features of classes.
        image: [D] unit feature of an image.

    Returns:
        [K, 2 D]: text * image, text.
    """
    return torch.cat([text * image, text], dim=-1)


class MaskDecoderLayer(nn.Module):
    """Attention of class queries to patches, whose logits are masks, and a feed-forward network.

    Each is followed by a norm (SegViT, Zhang et al., NeurIPS 2022, section 3.1).

    Args:
        channels: D.
        heads: number of attention heads.
        dim_feedforward: hidden channels.
        dropout: rate.
    """

    def __init__(self, channels: int, heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(channels, channels) for _ in range(4)
        )
        self.norm_attention, self.norm_mlp = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.linear_in = nn.Linear(channels, dim_feedforward)
        self.linear_out = nn.Linear(dim_feedforward, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            queries: [B, K, D].
            patches: [B, P, D].

        Returns:
            Queries [B, K, D], and mask logits [B, K, P], the mean of the heads' logits.
        """
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in ((self.query, queries), (self.key, patches), (self.value, patches))
        )
        logits = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        attended = (self.dropout(logits.softmax(-1)) @ v).transpose(1, 2).flatten(2)
        queries = self.norm_attention(queries + self.dropout(self.out(attended)))
        hidden = self.dropout(F.relu(self.linear_in(queries)))
        return self.norm_mlp(queries + self.dropout(self.linear_out(hidden))), logits.mean(1)


class RelationshipDecoder(nn.Module):
    """Mask logits of classes from unit features of texts, an image and its patches.

    Args:
        channels: D.
        layers: number of layers; the masks are those of the last.
        heads, dim_feedforward, dropout: see `MaskDecoderLayer`.
    """

    def __init__(
        self, channels: int, *, layers: int, heads: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.query = nn.Linear(2 * channels, channels)
        self.layers = nn.ModuleList(
            MaskDecoderLayer(channels, heads, dim_feedforward, dropout) for _ in range(layers)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, image: Tensor, patches: Tensor) -> Tensor:
        """Compute mask logits.

        Args:
            text: [K, D].
            image: [D].
            patches: [P, D].

        Returns:
            [K, P].
        """
        queries = self.query(relationship_descriptor(text, image))[None]
        logits = queries.new_zeros(1, len(text), len(patches))
        for layer in self.layers:
            queries, logits = layer(queries, patches[None])
        return logits[0]
