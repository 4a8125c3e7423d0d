"""Fusion layer between feature maps and text tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refersam.modeling.attention import Attention, FeedForward, LevelAttention, layer_norm

FFN_RATIO = 2


class VisionLanguageFusion(nn.Module):
    """Bi-directional cross attention with post-norm; text is updated first.

    Args:
        vision_width: D, channels of the maps.
        text_width: C, channels of a text token.
        heads: number of heads of all attentions.
        levels: number of maps.
    """

    def __init__(self, vision_width: int, text_width: int, heads: int, levels: int = 3) -> None:
        super().__init__()
        vision, text = vision_width, text_width
        self.text_self = Attention(text, text, vision, heads)
        self.text_to_vision = LevelAttention(text, vision, vision, heads, levels)
        self.text_mlp = FeedForward(text, FFN_RATIO * text)
        self.vision_to_text = Attention(vision, text, vision, heads)
        self.vision_mlp = FeedForward(vision, FFN_RATIO * vision)
        self.norm_text_self = layer_norm(text)
        self.norm_text_vision = layer_norm(text)
        self.norm_text_mlp = layer_norm(text)
        self.norm_vision_text = layer_norm(vision)
        self.norm_vision_mlp = layer_norm(vision)
        self.gamma_text = nn.Parameter(torch.ones(1, 1, text))
        self.gamma_vision = nn.Parameter(torch.ones(1, 1, vision))

    def forward(
        self,
        maps: Tensor,
        positions: Tensor,
        lengths: list[int],
        text: Tensor,
        text_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Fuse maps and text.

        Args:
            maps: [B, S, D], the concatenated levels.
            positions: [1, S, D], added to queries and keys, never to values.
            lengths: number of tokens of every level.
            text: [B, T, C] text and context tokens.
            text_mask: [B, T] bool, True for tokens that may be attended to.

        Returns:
            The updated maps and text.
        """
        text = self.norm_text_self(text + self.text_self(text, text, text, text_mask))
        attended = self.text_to_vision(text, maps + positions, maps, lengths)
        text = self.norm_text_vision(text + self.gamma_text * attended)
        text = self.norm_text_mlp(text + self.text_mlp(text))
        attended = self.vision_to_text(maps + positions, text, text, text_mask)
        maps = self.norm_vision_text(maps + self.gamma_vision * attended)
        return self.norm_vision_mlp(maps + self.vision_mlp(maps)), text
