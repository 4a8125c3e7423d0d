"""Semantic inference: class scores of every pixel from overlapping query masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from hipie.modeling.postprocessing.mask_upsampling import Size, row_bands


class SemanticAccumulator:
    """Sum over queries of class score times mask probability, for every class and pixel.

    The map is computed in bands of rows, so that hundreds of full-size masks never exist at once.

    Args:
        scores: [N, K].
        size: (H, W) of the map.
    """

    def __init__(self, scores: Tensor, size: Size) -> None:
        self._scores = scores.float()
        self._sums = self._scores.new_zeros(scores.shape[1], *size)

    def add(
        self,
        queries: Tensor,
        rows: slice,
        probabilities: Tensor,
        scored_classes: Tensor | None = None,
    ) -> None:
        """Add the masks of some queries in some rows of the map.

        Args:
            queries: [n].
            rows: R rows of the map.
            probabilities: [R, n, W] mask probabilities.
            scored_classes: [K] bool. All classes for which it is false have one and the same
                score for each of these queries, so their sum is computed once; None = all differ.
        """
        scores = self._scores[queries].t()
        with torch.autocast(scores.device.type, enabled=False):
            if scored_classes is None or scored_classes.all():
                self._sums[:, rows] += (scores @ probabilities.float()).transpose(0, 1)
                return
            distinct = scored_classes.nonzero().flatten()
            computed = torch.cat([distinct, (~scored_classes).nonzero()[0]])
            sums = (scores[computed] @ probabilities.float()).transpose(0, 1)
            offset = 0
            for first, last, is_distinct in _runs(scored_classes.tolist()):
                part = sums[offset : offset + last - first] if is_distinct else sums[-1:]
                self._sums[first:last, rows] += part
                offset += last - first if is_distinct else 0

    def result(self) -> Tensor:
        """[K, H, W] accumulated scores."""
        return self._sums


def semantic_inference(scores: Tensor, mask_logits: Tensor) -> Tensor:
    """Compute class scores of every pixel (MaskFormer, Cheng et al., 2021, section 3.4).

    Args:
        scores: [N, K] class scores of queries.
        mask_logits: [N, H, W].

    Returns:
        [K, H, W] float32.
    """
    count, height, width = mask_logits.shape
    accumulator = SemanticAccumulator(scores, (height, width))
    queries = torch.arange(count, device=mask_logits.device)
    for rows in row_bands(height, 4 * count * width):
        accumulator.add(queries, rows, mask_logits[:, rows].transpose(0, 1).float().sigmoid())
    return accumulator.result()


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, flag) of every run of equal flags."""
    start = 0
    for flag, run in groupby(flags):
        stop = start + len(list(run))
        yield start, stop, flag
        start = stop
