"""Panoptic inference: segments without overlap from overlapping query masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hipie.modeling.chunking import mask_bytes
from hipie.modeling.device_transfer import to_device, to_host
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
    The rules are MaskFormer's (Cheng et al., 2021, section 3.4). Between equal values the first
    query wins.

    Args:
        scores: [N, K] of the queries that compete, see `panoptic_candidates`; the class of a query
            is its best one.
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
        self._inside = torch.zeros(size, dtype=torch.bool, device=scores.device)
        self._winner = torch.zeros(size, dtype=torch.long, device=scores.device)
        self._buffer: Tensor | None = None
        self._areas = torch.zeros(len(scores), dtype=torch.long, device=scores.device)

    def add(self, rows: slice, probabilities: Tensor) -> None:
        """Add the masks of all queries in some rows of the map.

        Args:
            rows: R rows of the map.
            probabilities: [R, N, W] mask probabilities in float32, which are changed.
        """
        if len(self._best) == 0:
            return
        # As float32, counts of a row are exact and need no copy to a wider type.
        if self._buffer is None or len(self._buffer) < len(probabilities):
            self._buffer = torch.empty_like(probabilities)
        inside = torch.ge(probabilities, 0.5, out=self._buffer[: len(probabilities)])
        self._areas += inside.sum(2).long().sum(0)
        winner = probabilities.mul_(self._best[:, None]).max(1, keepdim=True).indices
        self._inside[rows] = inside.gather(1, winner)[:, 0].bool()
        self._winner[rows] = winner[:, 0]

    def result(self) -> tuple[Tensor, list[dict[str, Any]]]:
        """Panoptic map [H, W] int32 (0 = no segment) and its segments.

        A segment has `id` (from 1, in the order of the queries), `isthing`, `category_id` (the
        class index) and `score`.
        """
        count = len(self._areas)
        if count == 0:
            return self._winner.int(), []
        winner, inside = self._winner.flatten(), self._inside.flatten().long()
        counts = winner.new_zeros(2, count)
        pixels = torch.stack([torch.ones_like(inside), inside])
        counts.scatter_add_(1, winner.expand(2, -1), pixels)
        on_host = to_host([counts, self._areas, self._best, self._labels])
        (won, inside_pixels), areas, scores, labels = (values.tolist() for values in on_host)
        segment_ids = [0] * (count + 1)
        segments: list[dict[str, Any]] = []
        stuff_ids: dict[int, int] = {}
        for query in range(count):
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
        table = to_device(torch.tensor(segment_ids, dtype=torch.int32), winner.device)
        return table[self._winner.masked_fill(~self._inside, count)], segments


def panoptic_candidates(
    scores: Tensor, thresholds: PanopticThresholds = PanopticThresholds()
) -> Tensor:
    """[N] bool, the queries whose best score of [N, K] is high enough to compete for pixels."""
    return scores.float().amax(-1) > thresholds.object_mask


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
    candidates = panoptic_candidates(scores, thresholds)
    scores, mask_logits = scores[candidates], mask_logits[candidates]
    count, height, width = mask_logits.shape
    accumulator = PanopticAccumulator(scores, is_thing, (height, width), thresholds)
    for rows in row_bands(height, 4 * count * width, mask_bytes(mask_logits.device)):
        accumulator.add(rows, mask_logits[:, rows].transpose(0, 1).float().sigmoid())
    return accumulator.result()
