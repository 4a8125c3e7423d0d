"""Queries with masks that overlap -> one semantic and one panoptic map of the image.

Both maps are made row by row of the image, so that hundreds of full-size masks never exist at
once. The rules are MaskFormer's (Cheng et al., 2021, section 3.4), with HIPIE's thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from hipie.modeling.postprocessing.mask_upsampling import row_bands

Size = tuple[int, int]


@dataclass(frozen=True)
class PanopticThresholds:
    """When a query gets a segment.

    Attributes:
        score: its best class score must be above this.
        overlap: it must win at least this share of the pixels where its own mask is >= 0.5.
    """

    score: float = 0.25
    overlap: float = 0.8


class SemanticAccumulator:
    """Per class and pixel, the sum over queries of class score times mask probability.

    Args:
        scores: [N, K].
        size: (H, W) of the map.
    """

    def __init__(self, scores: Tensor, size: Size) -> None:
        self._scores = scores.float()
        self._sums = self._scores.new_zeros(scores.shape[1], *size)

    def add(
        self, queries: Tensor, rows: slice, probabilities: Tensor, own: Tensor | None = None
    ) -> None:
        """Take in some queries' masks in some rows of the map.

        Args:
            queries: [n].
            rows: of the map, R of them.
            probabilities: [R, n, W] masks after the sigmoid.
            own: [K] bool. Where it is false these queries' scores are one and the same number for
                every class, which then is summed only once. None = all differ.
        """
        scores = self._scores[queries].t()
        with torch.autocast(scores.device.type, enabled=False):
            if own is None or own.all():
                self._sums[:, rows] += (scores @ probabilities.float()).transpose(0, 1)
                return
            apart = own.nonzero().flatten()
            chosen = torch.cat([apart, (~own).nonzero()[0]])
            sums = (scores[chosen] @ probabilities.float()).transpose(0, 1)
            done = 0
            for first, last, differ in _runs(own.tolist()):
                part = sums[done : done + last - first] if differ else sums[-1:]
                self._sums[first:last, rows] += part
                done += last - first if differ else 0

    def result(self) -> Tensor:
        """[K, H, W] the sums so far."""
        return self._sums


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int, bool]]:
    """(start, stop, flag) of neighbours that are equal."""
    start = 0
    for flag, run in groupby(flags):
        stop = start + len(list(run))
        yield start, stop, flag
        start = stop


class PanopticAccumulator:
    """Each pixel goes to the query with the largest score times mask probability.

    Args:
        scores: [N, K]; a query's class is its best.
        is_thing: [K]; segments of one stuff class are one segment.
        size: (H, W) of the map.
        thresholds: when a query gets a segment.
    """

    def __init__(
        self,
        scores: Tensor,
        is_thing: Sequence[bool],
        size: Size,
        thresholds: PanopticThresholds = PanopticThresholds(),
    ) -> None:
        self._is_thing = [bool(thing) for thing in is_thing]
        self._overlap = thresholds.overlap
        self._best, self._labels = scores.float().max(-1)
        self.wanted = self._best > thresholds.score
        self._value = self._best.new_full(size, -1.0)
        self._inside = torch.zeros(size, dtype=torch.bool, device=scores.device)
        self._winner = torch.zeros(size, dtype=torch.int32, device=scores.device)
        self._areas = torch.zeros(len(scores), dtype=torch.long, device=scores.device)

    def add(self, queries: Tensor, rows: slice, probabilities: Tensor) -> None:
        """Take in some queries' masks in some rows of the map.

        Queries come in rising order: between equal values the first query wins.

        Args:
            queries: [n].
            rows: of the map, R of them.
            probabilities: [R, n, W] masks after the sigmoid.
        """
        wanted = self.wanted[queries]
        if not wanted.any():
            return
        probabilities = probabilities.float()
        if not wanted.all():
            queries, probabilities = queries[wanted], probabilities[:, wanted]
        inside = probabilities >= 0.5
        self._areas[queries] += inside.sum(2, dtype=torch.int32).sum(0)
        value, first = (probabilities * self._best[queries][:, None]).max(1)
        better = value > self._value[rows]
        torch.maximum(value, self._value[rows], out=self._value[rows])
        own = inside.gather(1, first[:, None])[:, 0]
        self._inside[rows] = torch.where(better, own, self._inside[rows])
        self._winner[rows] = torch.where(better, queries.int()[first], self._winner[rows])

    def result(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """The map [H, W] int32 (0 = nothing) and its segments.

        A segment has `id` (from 1, in the order of the queries), `isthing`, `category_id` (the
        class) and `score`.
        """
        count = len(self._areas)
        taken = self._value >= 0
        won = torch.bincount(self._winner[taken], minlength=count).tolist()
        kept = torch.bincount(self._winner[taken & self._inside], minlength=count).tolist()
        areas, scores = self._areas.tolist(), self._best.tolist()
        labels, table = self._labels.tolist(), torch.zeros(count + 1, dtype=torch.int32)
        segments: list[dict[str, Any]] = []
        stuff: dict[int, int] = {}
        for query in self.wanted.nonzero().flatten().tolist():
            if kept[query] == 0 or won[query] / areas[query] < self._overlap:
                continue
            label = labels[query]
            if label in stuff:
                table[query] = stuff[label]
                continue
            thing = self._is_thing[label]
            new = len(segments) + 1
            table[query] = new
            if not thing:
                stuff[label] = new
            segments.append(
                {"id": new, "isthing": thing, "category_id": label, "score": scores[query]}
            )
        chosen = self._winner.masked_fill(~(taken & self._inside), count)
        return table.to(chosen.device)[chosen.long()], segments


def semantic_inference(scores: Tensor, mask_logits: Tensor) -> Tensor:
    """[K, H, W] class scores of every pixel from scores [N, K] and mask logits [N, H, W]."""
    merge = SemanticAccumulator(scores, tuple(mask_logits.shape[-2:]))
    _feed(merge, mask_logits)
    return merge.result()


def panoptic_inference(
    scores: Tensor,
    mask_logits: Tensor,
    is_thing: Sequence[bool],
    thresholds: PanopticThresholds = PanopticThresholds(),
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Panoptic map and segments from scores [N, K] and mask logits [N, H, W]."""
    merge = PanopticAccumulator(scores, is_thing, tuple(mask_logits.shape[-2:]), thresholds)
    _feed(merge, mask_logits)
    return merge.result()


def _feed(merge: SemanticAccumulator | PanopticAccumulator, mask_logits: Tensor) -> None:
    count, height, width = mask_logits.shape
    every = torch.arange(count, device=mask_logits.device)
    for rows in row_bands(height, 4 * count * width):
        merge.add(every, rows, mask_logits[:, rows].transpose(0, 1).float().sigmoid())
