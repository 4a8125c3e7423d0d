"""Early fusion: bi-directional cross attention between image and text (GLIP, in HIPIE's form)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hipie.modeling.chunking import CPU_BYTES, working_bytes

SCORE_LIMIT = 50000.0
MASKED_SCORE = -9e15
# Memory on a CPU for the scores of heads that are computed together; at least one head is.
WORKING_BYTES = CPU_BYTES
# Copies of the scores in the backward pass: clamped and not, and of both directions the softmax,
# its dropout and the gradients.
TRAINING_COPIES = 6


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of the bi-directional attention.

    Attributes:
        width: channels of all heads together.
        num_heads: heads of the attention.
        dropout: of the attention weights.
        layers: encoder layers before which the fusion is, rising from 0.
    """

    width: int = 2048
    num_heads: int = 8
    dropout: float = 0.1
    layers: tuple[int, ...] = (0,)


class BidirectionalFusion(nn.Module):
    """Bi-directional cross attention between S image tokens and T text tokens.

    One score matrix a head serves both directions. As in the published model, the residual starts
    from the *normalised* inputs: out = norm(x) + gamma * attention.

    There are far more image tokens than text tokens, so no projection runs over image tokens: what
    the formula projects on the image side is applied to the text instead. This is the same product
    in another order and never holds an S x inner_width tensor.

    Heads are computed in groups whose scores fit into the memory of `hipie.modeling.chunking`. With
    gradients and more than one group, the scores are not stored: the backward pass computes them
    again, group by group.

    Args:
        width: channels of an image token.
        text_width: channels of a text token.
        inner_width: channels of all heads together.
        num_heads: heads of the attention.
        initial_gamma: initial value of the learned residual scales.
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
        """Fuse both modalities.

        Args:
            visual: [B, S, width]; padded image tokens are attended to like any other.
            text: [B, T, text_width].
            text_mask: [B, T] bool, True for real tokens; only these are attended to.

        Returns:
            The fused [B, S, width] and [B, T, text_width].
        """
        visual, text = self.norm_visual(visual), self.norm_text(text)
        keys, values = self._keys(text), self._values(text)
        masked = ~text_mask[:, None, :, None]
        num_scores = text.shape[1] * visual.shape[1] * len(visual)
        groups = list(self._head_groups(num_scores, visual.device))
        recompute = torch.is_grad_enabled() and len(groups) > 1
        from_text: Tensor | float = 0.0
        from_image = []
        for heads in groups:
            inputs = (visual, keys[0][:, heads], keys[1][:, heads], values[:, heads], masked)
            if recompute:
                mixed, group_from_text = checkpoint(self._attend, *inputs, use_reentrant=False)
            else:
                mixed, group_from_text = self._attend(*inputs)
            from_image.append(mixed)
            from_text = from_text + group_from_text
        return (
            visual + self.gamma_visual * (from_text + self.visual_out.bias),
            text + self.gamma_text * self._project_mixed(from_image),
        )

    def _attend(
        self, visual: Tensor, keys: Tensor, offset: Tensor, values: Tensor, masked: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Attention of n heads in both directions.

        Args:
            visual: [B, S, width].
            keys: of `_keys`, [B, n, T, width].
            offset: of `_keys`, [B, n, T, 1].
            values: of `_values`, [B, n, T, width].
            masked: [B, 1, T, 1] bool, True for padded tokens.

        Returns:
            Mixtures of image tokens, see `_mix`, and sums of text values over heads, [B, S, width].
        """
        scores = self._scores(visual, keys, offset)
        scores = scores.clamp_(-SCORE_LIMIT, SCORE_LIMIT)
        mixed = self._mix(self.dropout(scores.softmax(3)), visual)
        weights = self.dropout(scores.masked_fill_(masked, MASKED_SCORE).softmax(2))
        values = values.flatten(1, 2)
        return mixed, weights.flatten(1, 2).transpose(1, 2).to(values.dtype) @ values

    def _head_groups(self, num_scores: int, device: torch.device) -> Iterator[slice]:
        """Groups of heads whose scores fit into the working memory; all when exporting."""
        if torch.compiler.is_exporting():
            yield slice(0, self.num_heads)
            return
        copies = TRAINING_COPIES if torch.is_grad_enabled() else 1
        step = max(1, working_bytes(device, WORKING_BYTES) // (4 * copies * max(num_scores, 1)))
        for first in range(0, self.num_heads, step):
            yield slice(first, first + step)

    def _keys(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text keys after the image's query projection: [B, heads, T, width], [B, heads, T, 1]."""
        keys = self._split_heads(self.text_key(text) * self.scale)
        weight, bias = self._weights_by_head(self.visual_query)
        return keys @ weight, keys @ bias[:, :, None].to(keys.dtype)

    def _scores(self, visual: Tensor, keys: Tensor, offset: Tensor) -> Tensor:
        """Attention scores of n heads, float32 [B, n, T, S]."""
        scores = keys.flatten(1, 2) @ visual.transpose(1, 2)
        return scores.unflatten(1, keys.shape[1:3]).float().add_(offset)

    def _values(self, text: Tensor) -> Tensor:
        """Text values after each head's share of the output projection, [B, heads, T, width]."""
        out = self.visual_out.weight.unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
        return self._split_heads(self.text_value(text)) @ out

    def _mix(self, weights: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens averaged by weights [B, n, T, S]: [B, n, T, width], and sums of weights."""
        mixed = weights.flatten(1, 2).to(visual.dtype) @ visual
        return mixed.unflatten(1, weights.shape[1:3]), weights.sum(3, keepdim=True)

    def _project_mixed(self, mixed: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Value and output projection of the mixtures of all head groups: [B, T, text_width]."""
        visual, total = (torch.cat(parts, dim=1) for parts in zip(*mixed, strict=True))
        weight, bias = self._weights_by_head(self.visual_value)
        values = visual @ weight.transpose(1, 2) + total * bias[:, None]
        return self.text_out(values.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """[B, N, inner] -> [B, heads, N, inner / heads]."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def _weights_by_head(self, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """Weight [heads, inner / heads, width] and bias [heads, inner / heads] of a projection."""
        shape = (self.num_heads, -1)
        return layer.weight.unflatten(0, shape), layer.bias.unflatten(0, shape)
