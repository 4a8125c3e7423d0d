"""Early fusion of very long captions in chunks of tokens, with the same result.

One head and one chunk of text tokens at a time attend to all image tokens, so that the scores never
take more than the working memory of the device (`hipie.modeling.chunking`) beside inputs and
outputs. The attention of text over the image is a softmax over image tokens, complete in every
chunk. The attention of the image over text is a softmax over all text tokens, accumulated from
chunk to chunk (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). For
inference; dropout is not applied.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.chunking import working_bytes as device_working_bytes
from hipie.modeling.fusion.bidirectional_attention import (
    MASKED_SCORE,
    SCORE_LIMIT,
    BidirectionalFusion,
)

# Copies of a chunk's scores that exist at once: themselves, and as weights for either direction.
COPIES = 4


def needs_chunks(visual: Tensor, text: Tensor, working_bytes: int | None = None) -> bool:
    """Whether one head's scores of all tokens would take more than the working memory.

    Args:
        visual: [B, S, width].
        text: [B, T, text_width].
        working_bytes: memory for scores; None = as usual for the device.
    """
    working_bytes = working_bytes or device_working_bytes(visual.device)
    return len(visual) * visual.shape[1] * text.shape[1] * 4 * COPIES > working_bytes


def fuse_in_chunks(
    fusion: BidirectionalFusion,
    visual: Tensor,
    text: Tensor,
    text_mask: Tensor,
    working_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `fusion(visual, text, text_mask)` within bounded memory.

    Args:
        fusion: module whose weights are used.
        visual: [B, S, width].
        text: [B, T, text_width].
        text_mask: [B, T] bool.
        working_bytes: memory for scores; None = as usual for the device. One token at a time is
            always processed.

    Returns:
        The fused [B, S, width] and [B, T, text_width].
    """
    working_bytes = working_bytes or device_working_bytes(visual.device)
    visual, text = fusion.norm_visual(visual), fusion.norm_text(text)
    step = max(1, working_bytes // (len(visual) * visual.shape[1] * 4 * COPIES))
    from_text = torch.zeros_like(visual, dtype=torch.float32)
    from_image = torch.zeros_like(text, dtype=torch.float32)
    for head in range(fusion.num_heads):
        projections = _HeadProjections(fusion, head)
        softmax = _OnlineSoftmax(visual)
        for tokens in _chunks(text.shape[1], step):
            scores = projections.scores(visual, text[:, tokens])
            from_image[:, tokens] += projections.image_to_text(scores.softmax(2), visual).float()
            masked = ~text_mask[:, tokens, None]
            scores = scores.masked_fill_(masked, MASKED_SCORE)
            softmax.add(scores, projections.text_values(text[:, tokens]))
        from_text += softmax.result()
    from_text = (from_text + fusion.visual_out.bias).to(visual.dtype)
    from_image = (from_image + fusion.text_out.bias).to(text.dtype)
    return visual + fusion.gamma_visual * from_text, text + fusion.gamma_text * from_image


class _HeadProjections:
    """Rows of the six projections that belong to one head."""

    def __init__(self, fusion: BidirectionalFusion, head: int) -> None:
        depth = fusion.text_key.out_features // fusion.num_heads
        self._rows = slice(head * depth, (head + 1) * depth)
        self._fusion = fusion

    def scores(self, visual: Tensor, text: Tensor) -> Tensor:
        """Attention scores float32 [B, t, S]; the image's projection is applied to the text."""
        fusion, rows = self._fusion, self._rows
        keys = F.linear(text, fusion.text_key.weight[rows], fusion.text_key.bias[rows])
        keys = keys * fusion.scale
        offset = keys @ fusion.visual_query.bias[rows, None].to(keys.dtype)
        scores = (keys @ fusion.visual_query.weight[rows]) @ visual.transpose(1, 2)
        return scores.float().add_(offset).clamp_(-SCORE_LIMIT, SCORE_LIMIT)

    def text_values(self, text: Tensor) -> Tensor:
        """Text values after the output projection, [B, t, width]."""
        fusion, rows = self._fusion, self._rows
        values = F.linear(text, fusion.text_value.weight[rows], fusion.text_value.bias[rows])
        return F.linear(values, fusion.visual_out.weight[:, rows])

    def image_to_text(self, weights: Tensor, visual: Tensor) -> Tensor:
        """Image tokens averaged by weights [B, t, S], then projected: [B, t, text_width]."""
        fusion, rows = self._fusion, self._rows
        mixed = weights.to(visual.dtype) @ visual
        values = F.linear(mixed, fusion.visual_value.weight[rows], fusion.visual_value.bias[rows])
        return F.linear(values, fusion.text_out.weight[:, rows])


class _OnlineSoftmax:
    """Softmax over text tokens that arrive in chunks, times their values."""

    def __init__(self, visual: Tensor) -> None:
        size = visual.shape[:2]
        self._max = visual.new_full(size, float("-inf"), dtype=torch.float32)
        self._total = visual.new_zeros(size, dtype=torch.float32)
        self._values = torch.zeros_like(visual, dtype=torch.float32)

    def add(self, scores: Tensor, values: Tensor) -> None:
        """Accumulate scores float32 [B, t, S], which are changed, and values [B, t, width]."""
        maximum = torch.maximum(self._max, scores.amax(1))
        decay = (self._max - maximum).exp_()
        weights = scores.sub_(maximum[:, None]).exp_()
        self._max = maximum
        self._total = self._total * decay + weights.sum(1)
        new = weights.transpose(1, 2).to(values.dtype) @ values
        self._values = self._values * decay[..., None] + new

    def result(self) -> Tensor:
        """Weighted mean of all values, [B, S, width]."""
        return self._values / self._total[..., None]


def _chunks(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, start + step)
