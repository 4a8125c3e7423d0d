"""Transformer decoder in which pixels attend to words (CRIS, section 3.2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie_trained_clip.modeling.layers import map_positions, token_positions


class DecoderLayer(nn.Module):
    """Self-attention of pixels, attention of pixels to words and a feed-forward network.

    Each is normalised before, both attentions also after, and the hidden features of the network.

    Args:
        channels: C of pixels.
        text_channels: of words.
        heads: number of attention heads.
        dim_feedforward: hidden channels of the feed-forward network.
        dropout: rate.
    """

    def __init__(
        self, channels: int, text_channels: int, heads: int, dim_feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(channels) for _ in range(3))
        self.norm_self_out, self.norm_cross_out = (nn.LayerNorm(channels) for _ in range(2))
        settings: dict[str, Any] = {"dropout": dropout, "batch_first": True}
        self.self_attention = nn.MultiheadAttention(channels, heads, **settings)
        self.cross_attention = nn.MultiheadAttention(
            channels, heads, kdim=text_channels, vdim=text_channels, **settings
        )
        self.linear_in = nn.Linear(channels, dim_feedforward)
        self.norm_hidden = nn.LayerNorm(dim_feedforward)
        self.linear_out = nn.Linear(dim_feedforward, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, pixels: Tensor, text: Tensor, pixel_positions: Tensor, text_keys: Tensor, pad: Tensor
    ) -> Tensor:
        """Run the layer.

        Args:
            pixels: [B, P, C].
            text: [B, T, D].
            pixel_positions: [P, C].
            text_keys: [B, T, D], the text with its position embeddings.
            pad: [B, T] bool, True for padding.

        Returns:
            [B, P, C].
        """
        x = self.norm_self(pixels)
        queries = x + pixel_positions
        x = self.self_attention(queries, queries, x, need_weights=False)[0]
        pixels = pixels + self.dropout(self.norm_self_out(x))
        queries = self.norm_cross(pixels) + pixel_positions
        x = self.cross_attention(
            queries, text_keys, text, key_padding_mask=pad, need_weights=False
        )[0]
        pixels = pixels + self.dropout(self.norm_cross_out(x))
        hidden = self.dropout(F.relu(self.linear_in(self.norm_mlp(pixels))))
        return pixels + self.dropout(self.linear_out(self.norm_hidden(hidden)))


class VisionLanguageDecoder(nn.Module):
    """Layers of `DecoderLayer` and a last norm, on a feature map.

    Args:
        channels: C of the map.
        text_channels: of words.
        layers: number of layers.
        heads, dim_feedforward, dropout: see `DecoderLayer`.
    """

    def __init__(
        self,
        channels: int,
        text_channels: int,
        *,
        layers: int,
        heads: int,
        dim_feedforward: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(channels, text_channels, heads, dim_feedforward, dropout)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor, text: Tensor, pad: Tensor) -> Tensor:
        """Decode a map [B, C, h, w] with words [B, T, D] and padding [B, T]: [B, C, h, w]."""
        size, device = features.shape[-2:], features.device
        pixels = features.flatten(2).transpose(1, 2)
        pixel_positions = map_positions(size[0], size[1], pixels.shape[-1], device)
        text_keys = text + token_positions(text.shape[1], text.shape[2], device)
        pad = torch.zeros_like(pad, dtype=text.dtype).masked_fill(pad, float("-inf"))
        for layer in self.layers:
            pixels = layer(pixels, text, pixel_positions, text_keys, pad)
        return self.norm(pixels).transpose(1, 2).unflatten(2, size)
