"""Early fusion: words and pixels attend to each other (GLIP's deep fusion, in HIPIE's form)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LIMIT = 50000.0
HIDDEN = -9e15


class BidirectionalFusion(nn.Module):
    """Bi-directional cross attention between S pixels and T word pieces.

    One score matrix a head serves both directions. As in the published model, the residual starts
    from the *normed* inputs: out = norm(x) + gamma * attention.

    Args:
        width: channels of a pixel.
        text_width: channels of a word piece.
        inner_width: channels of all heads together.
        num_heads: heads of the attention.
        initial_gamma: what the learned residual scales start at.
        dropout: of the attention weights.
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        inner_width: int = 2048,
        num_heads: int = 8,
        initial_gamma: float = 1 / 6,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (inner_width // num_heads) ** -0.5
        self.norm_visual = nn.LayerNorm(width)
        self.norm_text = nn.LayerNorm(text_width)
        self.visual_query = nn.Linear(width, inner_width)
        self.text_key = nn.Linear(text_width, inner_width)
        self.visual_value = nn.Linear(width, inner_width)
        self.text_value = nn.Linear(text_width, inner_width)
        self.visual_out = nn.Linear(inner_width, width)
        self.text_out = nn.Linear(inner_width, text_width)
        self.gamma_visual = nn.Parameter(torch.full((width,), initial_gamma))
        self.gamma_text = nn.Parameter(torch.full((text_width,), initial_gamma))
        self.dropout = nn.Dropout(dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, visual: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Let both sides read each other.

        Args:
            visual: [B, S, width]; padded pixels are read like any other.
            text: [B, T, text_width].
            text_mask: [B, T] bool, True for real word pieces; only these are read.

        Returns:
            The fused [B, S, width] and [B, T, text_width].
        """
        visual, text = self.norm_visual(visual), self.norm_text(text)
        query = self._heads(self.visual_query(visual) * self.scale)
        scores = (query @ self._heads(self.text_key(text)).transpose(2, 3)).float()
        scores = scores.clamp(-LIMIT, LIMIT)
        seen = scores.masked_fill(~text_mask[:, None, None], HIDDEN).softmax(-1)
        read = scores.transpose(2, 3).softmax(-1)
        from_text = self._attend(seen, self.text_value(text))
        from_visual = self._attend(read, self.visual_value(visual))
        return (
            visual + self.gamma_visual * self.visual_out(from_text),
            text + self.gamma_text * self.text_out(from_visual),
        )

    def _heads(self, x: Tensor) -> Tensor:
        """[B, N, inner] -> [B, heads, N, inner / heads]."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _attend(self, weights: Tensor, values: Tensor) -> Tensor:
        mixed = self.dropout(weights).to(values.dtype) @ self._heads(values)
        return mixed.transpose(1, 2).flatten(2)
