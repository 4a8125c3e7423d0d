"""Semantic inference: class scores of every pixel from overlapping query masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hipie.modeling.chunking import mask_bytes
from hipie.modeling.device_transfer import to_device
from hipie.modeling.postprocessing.mask_upsampling import Size, row_bands
from hipie.modeling.postprocessing.pixel_scores import PixelRows
from hipie.structures import SemanticLabels


@dataclass(frozen=True)
class QueryBlock:
    """Consecutive queries.

    Attributes:
        queries: their range.
        scored_classes: [K]. All classes for which it is false have one and the same score for each
            of these queries, so their sum is computed once; None = all differ.
    """

    queries: slice
    scored_classes: Sequence[bool] | None = None


class BandScores:
    """Sum over queries of class score times mask probability, for every class and pixel of a band.

    Args:
        scores: [N, K].
        blocks: of all N queries in order; None = one block.
    """

    def __init__(self, scores: Tensor, blocks: Sequence[QueryBlock] | None = None) -> None:
        scores = scores.float().t()
        self._num_classes = len(scores)
        self._blocks: list[tuple[slice, Tensor, Tensor | None]] = []
        for block in [QueryBlock(slice(0, scores.shape[1]))] if blocks is None else blocks:
            block_scores, rows = scores[:, block.queries], None
            if block.scored_classes is not None and not all(block.scored_classes):
                distinct = [k for k, scored in enumerate(block.scored_classes) if scored]
                computed = [*distinct, list(block.scored_classes).index(False)]
                row_of = {k: row for row, k in enumerate(distinct)}
                class_rows = [row_of.get(k, len(distinct)) for k in range(self._num_classes)]
                block_scores = block_scores[to_device(torch.tensor(computed), scores.device)]
                rows = to_device(torch.tensor(class_rows), scores.device)
            self._blocks.append((block.queries, block_scores, rows))

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Class scores [R, K, W] of R rows with the mask probabilities [R, N, W]."""
        height, _, width = probabilities.shape
        total: Tensor | None = None
        with torch.autocast(probabilities.device.type, enabled=False):
            for queries, scores, rows in self._blocks:
                sums = scores.expand(height, -1, -1).bmm(probabilities[:, queries].float())
                sums = sums if rows is None else sums.index_select(1, rows)
                total = sums if total is None else total.add_(sums)
        return probabilities.new_zeros(height, self._num_classes, width) if total is None else total


class SemanticAccumulator:
    """Semantic map of all scores, computed in bands of rows.

    Args:
        scores: [N, K].
        size: (H, W) of the map.
        blocks: see `BandScores`.
        pixels: combined with the scores of every band; None = they stay.
    """

    def __init__(
        self,
        scores: Tensor,
        size: Size,
        blocks: Sequence[QueryBlock] | None = None,
        pixels: PixelRows | None = None,
    ) -> None:
        self._band_scores, self._pixels = BandScores(scores, blocks), pixels
        self._sums = scores.new_zeros((scores.shape[1], *size), dtype=torch.float32)

    def add(self, rows: slice, probabilities: Tensor) -> None:
        """Add R rows of the map with the mask probabilities [R, N, W] of all queries."""
        scores = self._band_scores(probabilities)
        if self._pixels is not None:
            scores = self._pixels.combine(scores, rows)
        self._sums[:, rows] = scores.transpose(0, 1)

    def result(self) -> Tensor:
        """[K, H, W] float32."""
        return self._sums


class SemanticLabelAccumulator:
    """Best class of every pixel, computed in bands of rows: scores of one band exist at a time.

    Args:
        scores: [N, K].
        size: (H, W) of the map.
        blocks: see `BandScores`.
        change_band: called with the scores [K, R, W] of every band and its rows before they are
            reduced; it may change them in place.
        pixels: combined with the scores of every band before that; None = they stay.
    """

    def __init__(
        self,
        scores: Tensor,
        size: Size,
        blocks: Sequence[QueryBlock] | None = None,
        change_band: Callable[[Tensor, slice], Any] | None = None,
        pixels: PixelRows | None = None,
    ) -> None:
        self._band_scores, self._change_band = BandScores(scores, blocks), change_band
        self._pixels = pixels
        self._labels = SemanticLabels(
            scores.new_zeros(size, dtype=torch.long),
            scores.new_zeros(size, dtype=torch.float32),
            scores.new_zeros(size, dtype=torch.float32),
        )

    def add(self, rows: slice, probabilities: Tensor) -> None:
        """Add R rows of the map with the mask probabilities [R, N, W] of all queries."""
        scores = self._band_scores(probabilities)
        if self._pixels is not None:
            scores = self._pixels.combine(scores, rows)
        if self._change_band is not None:
            self._change_band(scores.transpose(0, 1), rows)
        best, labels = scores.max(1)
        self._labels.labels[rows], self._labels.scores[rows] = labels, best
        self._labels.totals[rows] = scores.sum(1)

    def result(self) -> SemanticLabels:
        """The map."""
        return self._labels


def semantic_labels(result: dict[str, Any]) -> SemanticLabels:
    """Best class of every pixel from the result of any architecture for one image.

    Args:
        result: with `sem_seg_labels`, or with `sem_seg` [K, H, W].
    """
    if "sem_seg_labels" in result:
        labels: SemanticLabels = result["sem_seg_labels"]
        return labels
    scores = result["sem_seg"].float()
    best, classes = scores.max(0)
    return SemanticLabels(classes, best, scores.clamp(min=0).sum(0))


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
    for rows in row_bands(height, 4 * count * width, mask_bytes(mask_logits.device)):
        accumulator.add(rows, mask_logits[:, rows].transpose(0, 1).float().sigmoid())
    return accumulator.result()
