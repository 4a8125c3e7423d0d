"""Early fusion: words and pixels attend to each other (GLIP's deep fusion, in HIPIE's form)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

LIMIT = 50000.0
HIDDEN = -9e15
# Scores of the heads that are worked on together; a single head is always granted.
WORKING_BYTES = 256 * 2**20


class BidirectionalFusion(nn.Module):
    """Bi-directional cross attention between S pixels and T tokens.

    One score matrix a head serves both directions. As in the published model, the residual starts
    from the *normed* inputs: out = norm(x) + gamma * attention.

    There are far more pixels than words, so no projection runs over pixels: what the formula
    projects on the pixels' side is applied to the words instead, which is the same product in
    another order and never holds an S x inner_width tensor.

    Args:
        width: channels of a pixel.
        text_width: channels of a token.
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
            text_mask: [B, T] bool, True for real tokens; only these are read.

        Returns:
            The fused [B, S, width] and [B, T, text_width].
        """
        visual, text = self.norm_visual(visual), self.norm_text(text)
        keys, values = self._keys(text), self._values(text)
        hidden = ~text_mask[:, None, :, None]
        seen: Tensor | float = 0.0
        read = []
        for heads in self._head_groups(text.shape[1] * visual.shape[1] * len(visual)):
            scores = self._scores(visual, *(one[:, heads] for one in keys)).clamp_(-LIMIT, LIMIT)
            read.append(self._mix(self.dropout(scores.softmax(3)), visual))
            weights = self.dropout(scores.masked_fill_(hidden, HIDDEN).softmax(2))
            words = values[:, heads].flatten(1, 2)
            seen = seen + weights.flatten(1, 2).transpose(1, 2).to(words.dtype) @ words
        return (
            visual + self.gamma_visual * (seen + self.visual_out.bias),
            text + self.gamma_text * self._from_pixels(read),
        )

    def _head_groups(self, scores: int) -> Iterator[slice]:
        """Heads that are worked on together, so many that their scores stay small."""
        step = max(1, WORKING_BYTES // (4 * max(scores, 1)))
        for first in range(0, self.num_heads, step):
            yield slice(first, first + step)

    def _keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """[B, heads, T, width] and [B, heads, T, 1]: words after the pixels' projection."""
        keys = self._heads(self.text_key(text) * self.scale)
        weight, bias = self._by_head(self.visual_query)
        return keys @ weight, keys @ bias[:, :, None].to(keys.dtype)

    def _scores(self, visual: Tensor, keys: Tensor, offset: Tensor) -> Tensor:
        """float32 [B, n, T, S] of n heads."""
        scores = keys.flatten(1, 2) @ visual.transpose(1, 2)
        return scores.unflatten(1, keys.shape[1:3]).float().add_(offset)

    def _values(self, text: Tensor) -> Tensor:
        """[B, heads, T, width]: words' values after their share of the output projection."""
        out = self.visual_out.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
        return self._heads(self.text_value(text)) @ out

    def _mix(self, weights: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Weights [B, n, T, S] -> pixels mixed by them [B, n, T, width], and their sums."""
        mixed = weights.flatten(1, 2).to(visual.dtype) @ visual
        return mixed.unflatten(1, weights.shape[1:3]), weights.sum(3, keepdim=True)

    def _from_pixels(self, mixed: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """What groups of heads mixed -> [B, T, text_width]: mixed first, projected then."""
        pixels, total = (torch.cat(one, dim=1) for one in zip(*mixed, strict=True))
        weight, bias = self._by_head(self.visual_value)
        values = pixels @ weight.transpose(1, 2) + total * bias[:, None]
        return self.text_out(values.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, N, inner] -> [B, heads, N, inner / heads]."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _by_head(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """A layer's weight [heads, inner / heads, width] and bias [heads, inner / heads]."""
        shape = (self.num_heads, -1)
        return layer.weight.unflatten(0, shape), layer.bias.unflatten(0, shape)
