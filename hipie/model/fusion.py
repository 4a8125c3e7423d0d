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

    There are far more pixels than words, so no projection runs over pixels: what the formula
    projects on the pixels' side is applied to the words instead, which is the same product in
    another order and never holds an S x inner_width tensor.

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
        scores = self._scores(visual, text).clamp_(-LIMIT, LIMIT)
        seen = scores.masked_fill(~text_mask[:, None, :, None], HIDDEN).softmax(2)
        read = scores.softmax(3)
        return (
            visual + self.gamma_visual * self._read_text(self.dropout(seen), text),
            text + self.gamma_text * self._read_visual(self.dropout(read), visual),
        )

    def _scores(self, visual: Tensor, text: Tensor) -> Tensor:
        """float32 [B, heads, T, S]: the query projection is applied to the keys."""
        keys = self._heads(self.text_key(text) * self.scale)
        weight, bias = self._by_head(self.visual_query)
        offset = keys @ bias[:, :, None].to(keys.dtype)
        scores = (keys @ weight).flatten(1, 2) @ visual.transpose(1, 2)
        return scores.unflatten(1, keys.shape[1:3]).float().add_(offset)

    def _read_text(self, weights: Tensor, text: Tensor) -> Tensor:
        """Weights [B, heads, T, S] -> [B, S, width]: values meet the output projection first."""
        values = self._heads(self.text_value(text))
        out = self.visual_out.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
        rows = (values @ out).flatten(1, 2)
        return weights.flatten(1, 2).transpose(1, 2).to(rows.dtype) @ rows + self.visual_out.bias

    def _read_visual(self, weights: Tensor, visual: Tensor) -> Tensor:
        """Weights [B, heads, T, S] -> [B, T, text_width]: pixels are mixed before projected."""
        total = weights.sum(3, keepdim=True)
        mixed = weights.flatten(1, 2).to(visual.dtype) @ visual
        weight, bias = self._by_head(self.visual_value)
        mixed = mixed.unflatten(1, weights.shape[1:3]) @ weight.transpose(1, 2)
        mixed = mixed + total * bias[:, None]
        return self.text_out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, N, inner] -> [B, heads, N, inner / heads]."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _by_head(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """A layer's weight [heads, inner / heads, width] and bias [heads, inner / heads]."""
        shape = (self.num_heads, -1)
        return layer.weight.unflatten(0, shape), layer.bias.unflatten(0, shape)
