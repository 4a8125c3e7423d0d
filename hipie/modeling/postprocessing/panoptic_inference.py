"""Panoptic inference: segments without overlap from overlapping query masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hipie.modeling.postprocessing.mask_upsampling import Size, row_bands


@dataclass(frozen=True)
class PanopticThresholds:
    """Conditions under which a query becomes a segment.

    Attributes:
        object_mask: minimum of its best class score (exclusive).
        overlap: minimum share of the pixels of its own mask (probability >= 0.5) that it wins.
    """

    object_mask: float = 0.25
    overlap: float = 0.8


class PanopticAccumulator:
    """Assign each pixel to the query with the largest score times mask probability.

    The map is computed in bands of rows, so that hundreds of full-size masks never exist at once.
    The rules are MaskFormer's (Cheng et al., 2021, section 3.4).

    Args:
        scores: [N, K]; the class of a query is its best one.
        is_thing: [K]; queries of one stuff class become one segment.
        size: (H, W) of the map.
        thresholds: conditions for segments.
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
        self.is_candidate = self._best > thresholds.object_mask
        self._value = self._best.new_full(size, -1.0)
        self._inside = torch.zeros(size, dtype=torch.bool, device=scores.device)
        self._winner = torch.zeros(size, dtype=torch.int32, device=scores.device)
        self._areas = torch.zeros(len(scores), dtype=torch.long, device=scores.device)

    def add(self, queries: Tensor, rows: slice, probabilities: Tensor) -> None:
        """Add the masks of some queries in some rows of the map.

        Queries are added in increasing order: between equal values the first query wins.

        Args:
            queries: [n].
            rows: R rows of the map.
            probabilities: [R, n, W] mask probabilities.
        """
        candidates = self.is_candidate[queries]
        if not candidates.any():
            return
        probabilities = probabilities.float()
        if not candidates.all():
            queries, probabilities = queries[candidates], probabilities[:, candidates]
        inside = probabilities >= 0.5
        self._areas[queries] += inside.sum(2, dtype=torch.int32).sum(0)
        value, first = (probabilities * self._best[queries][:, None]).max(1)
        better = value > self._value[rows]
        torch.maximum(value, self._value[rows], out=self._value[rows])
        winner_inside = inside.gather(1, first[:, None])[:, 0]
        self._inside[rows] = torch.where(better, winner_inside, self._inside[rows])
        self._winner[rows] = torch.where(better, queries.int()[first], self._winner[rows])

    def result(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """Panoptic map [H, W] int32 (0 = no segment) and its segments.

        A segment has `id` (from 1, in the order of the queries), `isthing`, `category_id` (the
        class index) and `score`.
        """
        count = len(self._areas)
        assigned = self._value >= 0
        won = torch.bincount(self._winner[assigned], minlength=count).tolist()
        inside_pixels = torch.bincount(
            self._winner[assigned & self._inside], minlength=count
        ).tolist()
        areas, scores, labels = self._areas.tolist(), self._best.tolist(), self._labels.tolist()
        segment_ids = torch.zeros(count + 1, dtype=torch.int32)
        segments: list[dict[str, Any]] = []
        stuff_ids: dict[int, int] = {}
        for query in self.is_candidate.nonzero().flatten().tolist():
            if inside_pixels[query] == 0 or won[query] / areas[query] < self._overlap:
                continue
            label = labels[query]
            if label in stuff_ids:
                segment_ids[query] = stuff_ids[label]
                continue
            thing = self._is_thing[label]
            new_id = len(segments) + 1
            segment_ids[query] = new_id
            if not thing:
                stuff_ids[label] = new_id
            segments.append(
                {"id": new_id, "isthing": thing, "category_id": label, "score": scores[query]}
            )
        winner = self._winner.masked_fill(~(assigned & self._inside), count)
        return segment_ids.to(winner.device)[winner.long()], segments


def panoptic_inference(
    scores: Tensor,
    mask_logits: Tensor,
    is_thing: Sequence[bool],
    thresholds: PanopticThresholds = PanopticThresholds(),
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Compute a panoptic map and its segments; see `PanopticAccumulator.result`.

    Args:
        scores: [N, K] class scores of queries.
        mask_logits: [N, H, W].
        is_thing: [K].
        thresholds: conditions for segments.
    """
    count, height, width = mask_logits.shape
    accumulator = PanopticAccumulator(scores, is_thing, (height, width), thresholds)
    queries = torch.arange(count, device=mask_logits.device)
    for rows in row_bands(height, 4 * count * width):
        accumulator.add(queries, rows, mask_logits[:, rows].transpose(0, 1).float().sigmoid())
    return accumulator.result()
