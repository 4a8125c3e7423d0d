"""Early fusion with very many words: a few of them at a time, with the same result.

One head after the other and a chunk of tokens after the other meet all pixels, so that scores
never take more than `WORKING_BYTES` beside the inputs and outputs. What words read of the pixels is
a softmax over the pixels, whole in every chunk. What pixels read of the words is a softmax over all
words: its sums are kept up to date from chunk to chunk (Milakov and Gimelshein, "Online normalizer
calculation for softmax", 2018). For inference; dropout is not applied.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.fusion.bidirectional_attention import HIDDEN, LIMIT, BidirectionalFusion

WORKING_BYTES = 256 * 2**20
# Scores of a chunk exist so many times at once: themselves, and as weights for either side.
COPIES = 4


def needs_chunks(visual: Tensor, text: Tensor, working_bytes: int = WORKING_BYTES) -> bool:
    """Whether one head's scores of all pixels and words would take more than the working memory.

    Args:
        visual: [B, S, width].
        text: [B, T, text_width].
        working_bytes: what scores may take.
    """
    return len(visual) * visual.shape[1] * text.shape[1] * 4 * COPIES > working_bytes


def fuse_in_chunks(
    fusion: BidirectionalFusion,
    visual: Tensor,
    text: Tensor,
    text_mask: Tensor,
    working_bytes: int = WORKING_BYTES,
) -> tuple[Tensor, Tensor]:
    """What `fusion(visual, text, text_mask)` returns, within bounded memory.

    Args:
        fusion: whose weights are used.
        visual: [B, S, width].
        text: [B, T, text_width].
        text_mask: [B, T] bool.
        working_bytes: for scores; one token at a time is always granted.
    """
    visual, text = fusion.norm_visual(visual), fusion.norm_text(text)
    step = max(1, working_bytes // (len(visual) * visual.shape[1] * 4 * COPIES))
    seen = torch.zeros_like(visual, dtype=torch.float32)
    read = torch.zeros_like(text, dtype=torch.float32)
    for head in range(fusion.num_heads):
        weights = _Head(fusion, head)
        sums = _Sums(visual)
        for words in _chunks(text.shape[1], step):
            scores = weights.scores(visual, text[:, words])
            read[:, words] += weights.from_pixels(scores.softmax(2), visual).float()
            hidden = ~text_mask[:, words, None]
            sums.add(scores.masked_fill_(hidden, HIDDEN), weights.values(text[:, words]))
        seen += sums.result()
    seen = (seen + fusion.visual_out.bias).to(visual.dtype)
    read = (read + fusion.text_out.bias).to(text.dtype)
    return visual + fusion.gamma_visual * seen, text + fusion.gamma_text * read


class _Head:
    """One head's share of the six projections."""

    def __init__(self, fusion: BidirectionalFusion, head: int) -> None:
        depth = fusion.text_key.out_features // fusion.num_heads
        self._rows = slice(head * depth, (head + 1) * depth)
        self._fusion = fusion

    def scores(self, visual: Tensor, text: Tensor) -> Tensor:
        """float32 [B, t, S]: the pixels' projection is applied to the words."""
        fusion, rows = self._fusion, self._rows
        keys = F.linear(text, fusion.text_key.weight[rows], fusion.text_key.bias[rows])
        keys = keys * fusion.scale
        offset = keys @ fusion.visual_query.bias[rows, None].to(keys.dtype)
        found = (keys @ fusion.visual_query.weight[rows]) @ visual.transpose(1, 2)
        return found.float().add_(offset).clamp_(-LIMIT, LIMIT)

    def values(self, text: Tensor) -> Tensor:
        """[B, t, width] words as pixels read them, after the output projection."""
        fusion, rows = self._fusion, self._rows
        values = F.linear(text, fusion.text_value.weight[rows], fusion.text_value.bias[rows])
        return F.linear(values, fusion.visual_out.weight[:, rows])

    def from_pixels(self, weights: Tensor, visual: Tensor) -> Tensor:
        """[B, t, text_width] of weights [B, t, S]: pixels are mixed first, projected then."""
        fusion, rows = self._fusion, self._rows
        mixed = weights.to(visual.dtype) @ visual
        values = F.linear(mixed, fusion.visual_value.weight[rows], fusion.visual_value.bias[rows])
        return F.linear(values, fusion.text_out.weight[:, rows])


class _Sums:
    """A softmax over words that come in chunks, times their values."""

    def __init__(self, visual: Tensor) -> None:
        size = visual.shape[:2]
        self._most = visual.new_full(size, float("-inf"), dtype=torch.float32)
        self._total = visual.new_zeros(size, dtype=torch.float32)
        self._values = torch.zeros_like(visual, dtype=torch.float32)

    def add(self, scores: Tensor, values: Tensor) -> None:
        """Scores float32 [B, t, S], which are changed, and values [B, t, width]."""
        most = torch.maximum(self._most, scores.amax(1))
        kept = (self._most - most).exp_()
        weights = scores.sub_(most[:, None]).exp_()
        self._most = most
        self._total = self._total * kept + weights.sum(1)
        new = weights.transpose(1, 2).to(values.dtype) @ values
        self._values = self._values * kept[..., None] + new

    def result(self) -> Tensor:
        """[B, S, width]."""
        return self._values / self._total[..., None]


def _chunks(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, start + step)
