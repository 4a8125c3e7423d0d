"""Place the labels of segments on an image so that they hide little and never overlap.

Positions are searched on a coarse grid of the image. A label goes into the visible region of its
segment where it fits; beside it with a leader line where the segment is too small; nowhere where
the surroundings are taken. Whoever draws lists those in a legend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# A label lies inside a region if this fraction of it does, or the lower fraction where the region
# is larger than the label, such as a label across a person who stands.
MIN_COVERAGE, MIN_CROSSING_COVERAGE, MIN_CROSSING_AREA = 0.7, 0.2, 1.5
# Of another segment a label may hide this fraction.
MAX_HIDDEN = 0.35
# Weights of the distance to the centre, in image diagonals, and of hidden fractions.
DISTANCE_WEIGHT, HIDDEN_WEIGHT = 0.5, 1.0
# Length of a leader line in label heights and in image diagonals, whichever is larger.
MAX_LEADER_HEIGHTS, MAX_LEADER_DIAGONALS = 4.0, 0.12
LEADER_CANDIDATES = 40
# A label this near to its segment has no leader line.
TOUCHING_CELLS = 3
# Labels with leader lines stop when labels cover this fraction of the image.
MAX_LABELLED_AREA = 0.2
# A segment of which less than this fraction is visible is labelled at the top of its box.
MIN_VISIBLE = 0.05


@dataclass(frozen=True)
class LabelRequest:
    """A label that is to be placed.

    Attributes:
        region: number of the segment in the region map.
        size: (width, height) of the label in cells of the map.
        box: (x1, y1, x2, y2) of the whole segment in cells, hidden parts included.
        area: cells of the whole segment, hidden parts included.
        background: whether the segment is stuff: placed after others, and never beside itself.
        leader: whether the label may be placed beside the segment.
    """

    region: int
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    area: int
    background: bool = False
    leader: bool = True


@dataclass(frozen=True)
class PlacedLabel:
    """The position of a label.

    Attributes:
        corner: (x, y) of the top left corner in cells.
        leader: ends (x, y) of the leader line, at the label and in the segment; None for a label
            on its segment.
    """

    corner: tuple[int, int]
    leader: tuple[tuple[int, int], tuple[int, int]] | None = None


def place_labels(
    regions: NDArray[np.int32], requests: Sequence[LabelRequest]
) -> list[PlacedLabel | None]:
    """Choose positions of labels that overlap neither each other nor each other's leader lines.

    Args:
        regions: [h, w], the number of the topmost segment of each cell, 0 for none.
        requests: the labels; several may have one region.

    Returns:
        One position a request; None for a label without room.
    """
    placer = _Placer(regions, requests)
    placed: list[PlacedLabel | None] = [None] * len(requests)
    # Small segments have least choice; stuff has most.
    order = sorted(
        range(len(requests)), key=lambda i: (requests[i].background, requests[i].area, i)
    )
    for i in order:
        placed[i] = placer.place_inside(requests[i])
    for i in reversed(order):
        if placed[i] is None and requests[i].leader and not requests[i].background:
            placed[i] = placer.place_beside(requests[i])
    return placed


class _Placer:
    """The cells that labels and leader lines occupy, and the costs of further positions."""

    def __init__(self, regions: NDArray[np.int32], requests: Sequence[LabelRequest]) -> None:
        self.regions = regions
        self.occupied = np.zeros(regions.shape, np.uint8)
        self.labelled = 0
        self.diagonal = float(np.hypot(regions.shape[0], regions.shape[1]))
        count = int(regions.max(initial=0)) + 1
        self.visible = np.bincount(regions.ravel(), minlength=count)
        # Fraction of its segment that each cell is; 0 for stuff and for cells without a segment.
        share = 1 / np.maximum(self.visible, 1)
        share[0] = 0
        for request in requests:
            if request.background and request.region < count:
                share[request.region] = 0
        self.share = share[regions].astype(np.float32)

    def place_inside(self, request: LabelRequest) -> PlacedLabel | None:
        width, height = request.size
        visible = self._visible_area(request)
        if visible < request.area * MIN_VISIBLE or not self._fits(request):
            return None
        region = (self.regions == request.region).astype(np.uint8)
        coverage = _window_sums(region, width, height) / (width * height)
        hidden = self._hidden(request, region)
        x, y = self._anchor(request)
        rows, columns = np.ogrid[: coverage.shape[0], : coverage.shape[1]]
        distance = np.hypot(rows + height / 2 - y, columns + width / 2 - x) / self.diagonal
        score = np.minimum(coverage, 0.98) - DISTANCE_WEIGHT * distance - HIDDEN_WEIGHT * hidden
        crosses = visible >= MIN_CROSSING_AREA * width * height
        allowed = coverage >= (MIN_CROSSING_COVERAGE if crosses else MIN_COVERAGE)
        allowed &= (hidden <= MAX_HIDDEN) & self._free(request)
        if not allowed.any():
            return None
        best = int(np.where(allowed, score, -np.inf).argmax())
        row, column = divmod(best, score.shape[1])
        return self._occupy(request, (column, row))

    def place_beside(self, request: LabelRequest) -> PlacedLabel | None:
        if not self._fits(request):
            return None
        width, height = request.size
        if self.labelled + width * height > MAX_LABELLED_AREA * self.regions.size:
            return None
        region = (self.regions == request.region).astype(np.uint8)
        hidden = self._hidden(request, region)
        own = _window_sums(region, width, height) / max(self._visible_area(request), 1)
        x, y = self._anchor(request)
        rows, columns = np.ogrid[: own.shape[0], : own.shape[1]]
        across = np.maximum(np.maximum(columns - x, x - (columns + width - 1)), 0)
        down = np.maximum(np.maximum(rows - y, y - (rows + height - 1)), 0)
        distance = np.hypot(across, down)
        limit = max(MAX_LEADER_HEIGHTS * height, MAX_LEADER_DIAGONALS * self.diagonal)
        cost = distance / height + 6 * hidden + 6 * own
        allowed = (hidden <= MAX_HIDDEN) & (distance <= limit) & self._free(request)
        cost = np.where(allowed, cost, np.inf)
        candidates = np.argsort(cost, axis=None, kind="stable")[:LEADER_CANDIDATES]
        for best in candidates.tolist():
            row, column = divmod(best, cost.shape[1])
            if not np.isfinite(cost[row, column]):
                return None
            start = _nearest((column, row), request.size, (x, y))
            if start == (x, y) or self._touches(request, (column, row)):
                return self._occupy(request, (column, row))
            line = np.zeros_like(self.occupied)
            cv2.line(line, start, (x, y), 1)
            if not (line & self.occupied).any():
                self.occupied |= line
                return self._occupy(request, (column, row), (start, (x, y)))
        return None

    def _occupy(
        self,
        request: LabelRequest,
        corner: tuple[int, int],
        leader: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ) -> PlacedLabel:
        (width, height), (x, y) = request.size, corner
        self.occupied[y : y + height, x : x + width] = 1
        self.labelled += width * height
        return PlacedLabel(corner, leader)

    def _touches(self, request: LabelRequest, corner: tuple[int, int]) -> bool:
        """Whether a label touches its segment, so that it needs no line."""
        (width, height), (x, y) = request.size, corner
        near = TOUCHING_CELLS
        around = self.regions[
            max(y - near, 0) : y + height + near, max(x - near, 0) : x + width + near
        ]
        return bool((around == request.region).any())

    def _fits(self, request: LabelRequest) -> bool:
        rows, columns = self.regions.shape
        return 0 < request.size[0] <= columns and 0 < request.size[1] <= rows

    def _free(self, request: LabelRequest) -> NDArray[np.bool_]:
        return _window_sums(self.occupied, *request.size) == 0

    def _hidden(self, request: LabelRequest, region: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Fractions of other segments that a label hides, summed, for each position."""
        return _window_sums(np.where(region, np.float32(0), self.share), *request.size)

    def _visible_area(self, request: LabelRequest) -> int:
        in_map = request.region < len(self.visible)
        return int(self.visible[request.region]) if in_map else 0

    def _anchor(self, request: LabelRequest) -> tuple[int, int]:
        """The cell (x, y) of a segment that is farthest from its outline, or its box's top."""
        if self._visible_area(request) < max(request.area * MIN_VISIBLE, 1):
            x1, y1, x2, _ = request.box
            x, y = (x1 + x2) // 2, y1
            return min(x, self.regions.shape[1] - 1), min(y, self.regions.shape[0] - 1)
        # A border of other cells: the image's edge is an outline.
        region = np.pad((self.regions == request.region).astype(np.uint8), 1)
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[1:-1, 1:-1]
        rows, columns = np.nonzero(depth >= 0.9 * depth.max())
        # Of the deepest cells the one nearest to their centre.
        middle = np.hypot(rows - rows.mean(), columns - columns.mean()).argmin()
        return int(columns[middle]), int(rows[middle])


def _window_sums(values: NDArray[np.generic], width: int, height: int) -> NDArray[np.float64]:
    """Sums over all windows of a size: [h - height + 1, w - width + 1]."""
    integral = cv2.integral(values, sdepth=cv2.CV_64F)
    sums: NDArray[np.float64] = (
        integral[height:, width:]
        - integral[:-height, width:]
        - integral[height:, :-width]
        + integral[:-height, :-width]
    )
    # Differences of sums of fractions are not exact.
    return np.where(np.abs(sums) < 1e-9, 0.0, sums)


def _nearest(
    corner: tuple[int, int], size: tuple[int, int], point: tuple[int, int]
) -> tuple[int, int]:
    """The cell of a label that is nearest to a point."""
    (x, y), (width, height) = corner, size
    return min(max(point[0], x), x + width - 1), min(max(point[1], y), y + height - 1)
