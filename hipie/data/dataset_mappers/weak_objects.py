"""Objects of training items of which not the whole mask is annotated.

What a file does not have is derived from its masks, before any augmentation and always alike, so
that a training sees of an object what an annotator would have drawn once.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from numpy.typing import NDArray

from hipie.box_ops import masks_to_boxes
from hipie.data.io.partial_annotations import POINT_COORDS, POINT_LABELS, SCRIBBLES
from hipie.data.supervision import BOXES, WEAK_KINDS, WeakLabels
from hipie.structures import POINTS as POINTS_KIND
from hipie.structures import SCRIBBLE as SCRIBBLE_KIND

GRID = 48
"""Cells of the longer side of an object on which its scribble is drawn."""
Annotations = Sequence[Mapping[str, Any]]
Points = NDArray[np.float32]


@dataclass(frozen=True)
class WeakAnnotations:
    """What is annotated of N objects of an image.

    Attributes:
        kinds: int64 [N], see `hipie.structures.Supervision`.
        points: float32 [N, P, 3], x and y in pixels, and 1 on the object, 0 beside it, -1 for no
            point.
    """

    kinds: NDArray[np.int64]
    points: Points

    def select(self, index: NDArray[Any]) -> Self:
        """Some of the objects, by index or by a mask of bool."""
        return type(self)(self.kinds[index], self.points[index])

    def add_to(self, instances: Instances) -> None:
        """Set the fields `gt_supervision` and `gt_points` of the same objects."""
        instances.gt_supervision = torch.from_numpy(self.kinds)
        if self.points.shape[1]:
            instances.gt_points = torch.from_numpy(self.points)


def weak_annotations(
    masks: NDArray[np.bool_],
    annotations: Annotations | None,
    transform: T.Transform,
    labels: WeakLabels,
    image_id: Any,
) -> tuple[NDArray[np.bool_], WeakAnnotations]:
    """Keep of objects what a kind of supervision has.

    Args:
        masks: bool [N, H, W], each with a pixel.
        annotations: entries in COCO's format, whose points and scribbles count before derived ones;
            None = there are none.
        transform: applied to boxes and points.
        labels: the kind, with the constants of derived points and scribbles.
        image_id: of the record; it seeds what is derived.

    Returns:
        Filled boxes, bool [N, h, w], of scribbles their extents, and what is annotated.
    """
    boxes = _boxes(masks)
    points = np.zeros((len(masks), 0, 3), np.float32)
    if labels.kind != BOXES:
        rng = np.random.default_rng([labels.seed, zlib.crc32(str(image_id).encode())])
        entries = annotations or [{}] * len(masks)
        drawn = (
            _points(masks, boxes, entries, labels, rng)
            if labels.kind == WEAK_KINDS[POINTS_KIND]
            else _scribbles(masks, entries, labels, rng)
        )
        points = _transformed(_padded(drawn), transform, (masks.shape[1], masks.shape[2]))
    kind = {name: number for number, name in WEAK_KINDS.items()}[labels.kind]
    shape = transform.apply_segmentation(np.zeros(masks.shape[1:], np.uint8)).shape
    filled = np.zeros((len(masks), *shape), dtype=bool)
    for i, (left, top, right, bottom) in enumerate(boxes):
        if kind == SCRIBBLE_KIND:
            _fill_extent(filled[i], points[i])
        else:
            box = np.zeros(masks.shape[1:], np.uint8)
            box[top:bottom, left:right] = 1
            filled[i] = transform.apply_segmentation(box)
    return filled, WeakAnnotations(np.full(len(masks), kind, dtype=np.int64), points)


def draw_scribble(
    mask: NDArray[np.bool_], rng: np.random.Generator, max_points: int
) -> NDArray[np.int64]:
    """Draw a line inside of a mask, far from its border.

    It is the cheapest path between two pixels that are far from each other, where pixels near the
    border are expensive, on a grid of at most 48 cells a side.

    Args:
        mask: bool [H, W] with a pixel.
        rng: generator.
        max_points: pixels of the line; longer ones are thinned out evenly.

    Returns:
        [n, 2], x and y of pixels of the mask.
    """
    from scipy import ndimage

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    window = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    step = max(1, -(-max(window.shape) // GRID))
    cells = window[step // 2 :: step, step // 2 :: step]
    offset = step // 2
    if not cells.any():  # thinner than a cell
        cells, step, offset = window, 1, 0
    components, _ = ndimage.label(cells, structure=np.ones((3, 3)))
    largest = 1 + int(np.argmax(np.bincount(components.ravel())[1:]))
    inside = components == largest
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    places = np.argwhere(inside)
    weights = depth[inside] ** 2
    start = int(rng.choice(len(places), p=weights / weights.sum()))
    path = places[_path(inside, depth, places, start, weights, rng)]
    if len(path) > max_points:
        path = path[np.linspace(0, len(path) - 1, max_points).round().astype(int)]
    pixels = path * step + offset
    line: NDArray[np.int64] = np.stack([pixels[:, 1] + left, pixels[:, 0] + top], axis=1)
    return line


def _path(
    inside: NDArray[np.bool_],
    depth: NDArray[np.float64],
    places: NDArray[np.int64],
    start: int,
    weights: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[int]:
    """Cheapest path from a cell to one of the far half of the cells, as indices of `places`."""
    # Few trainings need them, and every command imports this module.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    index = np.full(inside.shape, -1)
    index[inside] = np.arange(len(places))
    cost = 1 / depth[inside]
    first, second = [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        height, width = inside.shape
        a = index[: height - dy, max(0, -dx) : width - max(0, dx)]
        b = index[dy:, max(0, dx) : width - max(0, -dx)]
        linked = (a >= 0) & (b >= 0)
        first.append(a[linked])
        second.append(b[linked])
    i, j = np.concatenate(first), np.concatenate(second)
    graph = coo_array((cost[i] + cost[j], (i, j)), shape=(len(places), len(places)))
    distance, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    far = np.where(distance >= np.median(distance), weights, 0.0)
    end = int(rng.choice(len(places), p=far / far.sum()))
    path = [end]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    return path[::-1]


def _points(
    masks: NDArray[np.bool_],
    boxes: Sequence[Sequence[int]],
    entries: Annotations,
    labels: WeakLabels,
    rng: np.random.Generator,
) -> list[Points]:
    """Points [P, 3] of every object: those of its annotation, else random ones of its box."""
    points = []
    for mask, (left, top, right, bottom), entry in zip(masks, boxes, entries, strict=True):
        # Drawn in any case, so that the other objects' points do not depend on the file.
        x = rng.integers(left, right, labels.num_points)
        y = rng.integers(top, bottom, labels.num_points)
        label = mask[y, x]
        if POINT_COORDS in entry:
            x, y = (np.floor(side) for side in np.array(entry[POINT_COORDS]).T)
            label = np.array(entry[POINT_LABELS])
        points.append(np.stack([x + 0.5, y + 0.5, label], axis=1).astype(np.float32))
    return points


def _scribbles(
    masks: NDArray[np.bool_],
    entries: Annotations,
    labels: WeakLabels,
    rng: np.random.Generator,
) -> list[Points]:
    """Pixels [P, 3] of every object's scribble, and of those of the others that are beside it."""
    drawn = []
    for mask, entry in zip(masks, entries, strict=True):
        if SCRIBBLES in entry:
            drawn.append(_drawn(entry[SCRIBBLES], labels.scribble_points, mask.shape))
        else:
            drawn.append(draw_scribble(mask, rng, labels.scribble_points))
    owners = np.repeat(np.arange(len(drawn)), [len(pixels) for pixels in drawn])
    everything = np.concatenate(drawn) if drawn else np.zeros((0, 2), np.int64)
    scribbles = []
    for i, (mask, entry) in enumerate(zip(masks, entries, strict=True)):
        others = owners != i
        if entry.get("segmentation") or SCRIBBLES not in entry:
            # Masks may overlap: a pixel of both is not beside this one.
            others &= ~mask[everything[:, 1], everything[:, 0]]
        beside = everything[others]
        if len(beside) > labels.scribble_points:
            beside = rng.permutation(beside)[: labels.scribble_points]
        pixels = np.concatenate([drawn[i], beside]) + 0.5
        label = np.repeat([1.0, 0.0], [len(drawn[i]), len(beside)])
        scribbles.append(np.concatenate([pixels, label[:, None]], axis=1).astype(np.float32))
    return scribbles


def _drawn(
    lines: Sequence[Sequence[float]], max_points: int, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Pixels [n, 2] of polylines, evenly thinned out."""
    parts = []
    for line in lines:
        corners = np.array(line).reshape(-1, 2)
        parts.append(corners[:1])
        for begin, end in zip(corners[:-1], corners[1:], strict=True):
            steps = max(1, int(np.ceil(np.abs(end - begin).max())))
            parts.append(begin + (end - begin) * np.linspace(0, 1, steps + 1)[1:, None])
    pixels = np.floor(np.concatenate(parts)).astype(np.int64)
    pixels = np.minimum(pixels, (shape[1] - 1, shape[0] - 1))
    _, first = np.unique(pixels, axis=0, return_index=True)
    pixels = pixels[np.sort(first)]
    if len(pixels) > max_points:
        pixels = pixels[np.linspace(0, len(pixels) - 1, max_points).round().astype(int)]
    return pixels


def _padded(points: Sequence[Points]) -> Points:
    """Stack points of N objects to [N, P, 3]; missing ones have the label -1."""
    most = max((len(part) for part in points), default=0)
    stacked = np.zeros((len(points), most, 3), np.float32)
    stacked[..., 2] = -1
    for place, part in zip(stacked, points, strict=True):
        place[: len(part)] = part
    return stacked


def _transformed(points: Points, transform: T.Transform, size: tuple[int, int]) -> Points:
    """Transform points [N, P, 3]; those outside of the image afterwards have the label -1."""
    if points.size == 0:
        return points
    moved = points.copy()
    moved[..., :2] = transform.apply_coords(points[..., :2].reshape(-1, 2).copy()).reshape(
        *points.shape[:2], 2
    )
    inside = transform.apply_segmentation(np.ones(size, np.uint8))
    x, y = (np.floor(moved[..., axis]).astype(int) for axis in (0, 1))
    valid = (x >= 0) & (y >= 0) & (x < inside.shape[1]) & (y < inside.shape[0])
    valid &= inside[y.clip(0, inside.shape[0] - 1), x.clip(0, inside.shape[1] - 1)] == 1
    moved[..., 2] = np.where(valid, moved[..., 2], -1)
    return moved


def _fill_extent(place: NDArray[np.bool_], points: Points) -> None:
    """Fill the extent of an object's points [P, 3] on it."""
    on = points[points[:, 2] == 1]
    if len(on):
        left, top = np.floor(on[:, :2].min(axis=0)).astype(int)
        right, bottom = np.floor(on[:, :2].max(axis=0)).astype(int) + 1
        place[top:bottom, left:right] = True


def _boxes(masks: NDArray[np.bool_]) -> list[list[int]]:
    boxes: list[list[int]] = (
        masks_to_boxes(torch.from_numpy(np.ascontiguousarray(masks))).long().tolist()
    )
    return boxes
