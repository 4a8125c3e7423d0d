"""Segmentation of large images tile by tile.

Tiles overlap. Things of neighbouring tiles are one thing if they have the same label and agree
where the tiles overlap. Where tiles disagree about a pixel, the segments vote for it with their
scores, weighted down towards the inner borders of a tile, where the model sees less around a pixel.
Memory beside the image is that of one tile, of masks as run lengths, and of one map of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from hipie.errors import InputError, describe
from hipie.segmentation import RleSegment, Segment, Segmentation

MIN_AGREEMENT = 0.5
"""IoU, inside the overlap of two tiles, from which two segments are one thing."""
MIN_TILE = 32
MAX_OVERLAP = 0.5


@dataclass(frozen=True)
class Tile:
    """A rectangle of an image in pixels; `bottom` and `right` are outside."""

    top: int
    left: int
    bottom: int
    right: int

    def intersect(self, other: Tile) -> Tile:
        """Return the common rectangle, which may be empty."""
        return Tile(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    @property
    def is_empty(self) -> bool:
        """Whether it has no pixel."""
        return self.top >= self.bottom or self.left >= self.right

    def within(self, outer: Tile) -> tuple[slice, slice]:
        """Return the rows and columns of an array of the outer rectangle."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(eq=False)
class _Piece:
    """A segment of a tile, whose mask is kept as run lengths of the tile."""

    tile: Tile
    segment: Segment
    group: int = 0

    @property
    def mask(self) -> NDArray[Any]:
        return self.segment.mask

    @property
    def box(self) -> Tile:
        left, top, right, bottom = (int(side) for side in self.segment.box)
        return Tile(
            self.tile.top + top,
            self.tile.left + left,
            self.tile.top + bottom,
            self.tile.left + right,
        )


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where the tiles along a side begin; the last one ends with the side.

    >>> tile_starts(100, 40, 10)
    [0, 30, 60]
    >>> tile_starts(100, 40, 0)
    [0, 40, 60]
    >>> tile_starts(30, 40, 10)
    [0]
    """
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def tiles_of(height: int, width: int, size: int, overlap: int) -> list[Tile]:
    """Return the tiles of an image, row by row."""
    return [
        Tile(top, left, min(top + size, height), min(left + size, width))
        for top in tile_starts(height, size, overlap)
        for left in tile_starts(width, size, overlap)
    ]


def check_tiling(size: Any, overlap: Any) -> int:
    """Check the size and the overlap of tiles.

    Args:
        size: side of a tile in pixels, from `MIN_TILE`.
        overlap: share of the side that neighbours have in common, in 0 to `MAX_OVERLAP`.

    Returns:
        The overlap in pixels.

    Raises:
        InputError: naming the one that cannot be used.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < MIN_TILE:
        raise InputError(
            f"tile has to be a number of pixels from {MIN_TILE}, not {describe(size)}"
        ).on_command_line(f"--tile has to be a number of pixels from {MIN_TILE}, not {size}")
    is_number = isinstance(overlap, int | float) and not isinstance(overlap, bool)
    if not is_number or not 0 <= overlap <= MAX_OVERLAP:
        raise InputError(
            f"overlap has to be a share in 0 to {MAX_OVERLAP}, not {describe(overlap)}"
        ).on_command_line(f"--overlap has to be a share in 0 to {MAX_OVERLAP}, not {overlap}")
    return round(overlap * size)


def segment_tiles(
    pixels: NDArray[Any],
    segment: Callable[[NDArray[Any]], Segmentation],
    size: int,
    overlap: float = 0.25,
    *,
    exclusive: bool = True,
) -> Segmentation:
    """Segment an image tile by tile.

    Args:
        pixels: [H, W, 3] uint8 RGB.
        segment: the call on a tile of it.
        size: side of a tile in pixels. An image that fits one tile is segmented as it is.
        overlap: share of the side that neighbouring tiles have in common, in 0 to 0.5.
        exclusive: a pixel belongs to one segment; otherwise segments may overlap, as instances do.

    Returns:
        Segments in the order of the tiles; stuff and the parts of a thing have one segment a label.
        Scores are means, weighted by area.

    Raises:
        InputError: see `check_tiling`.
    """
    margin = check_tiling(size, overlap)
    height, width = pixels.shape[:2]
    if max(height, width) <= size:
        return segment(pixels)
    tiles = tiles_of(height, width, size, margin)
    by_tile: list[list[_Piece]] = []
    groups = _Groups()
    names: dict[str, None] = {}
    for number, tile in enumerate(tiles):
        rows, columns = tile.within(Tile(0, 0, height, width))
        result = segment(np.ascontiguousarray(pixels[rows, columns]))
        names.update(dict.fromkeys(result.class_names))
        pieces = [_Piece(tile, _compressed(one)) for one in result if one.area]
        groups.add(pieces, number)
        for before in range(number):
            if not _touching(tile, tiles[before]).is_empty:
                _join(by_tile[before], pieces, groups)
        by_tile.append(pieces)
    joined = groups.collect(by_tile)
    if exclusive:
        masks = _vote(joined, by_tile, (height, width), size, margin)
    else:
        masks = {number: _union(pieces, (height, width)) for number, pieces in joined.items()}
    segments = [
        _merged(joined[number], mask, (height, width), exclusive)
        for number, mask in masks.items()
        if coco_mask.area(mask)
    ]
    return Segmentation(pixels, segments, tuple(names))


class _Groups:
    """Pieces that are one segment: stuff by label, things where they were joined."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._tiles: list[set[int]] = []
        self._stuff: dict[tuple[str, str], int] = {}

    def add(self, pieces: Iterable[_Piece], tile: int) -> None:
        """Give pieces of a tile groups of their own; those of stuff that of their label."""
        for piece in pieces:
            key = (piece.segment.kind, piece.segment.label)
            if piece.segment.kind != "thing" and key in self._stuff:
                piece.group = self._stuff[key]
                continue
            piece.group = len(self._parents)
            self._parents.append(piece.group)
            self._tiles.append({tile})
            if piece.segment.kind != "thing":
                self._stuff[key] = piece.group

    def root(self, group: int) -> int:
        """Return the group that a group has become."""
        while self._parents[group] != group:
            self._parents[group] = group = self._parents[self._parents[group]]
        return group

    def join(self, first: int, second: int) -> None:
        """Make one group of two, unless a tile has seen them as two things."""
        first, second = sorted((self.root(first), self.root(second)))
        if first != second and not self._tiles[first] & self._tiles[second]:
            self._parents[second] = first
            self._tiles[first] |= self._tiles[second]

    def collect(self, by_tile: Iterable[Iterable[_Piece]]) -> dict[int, list[_Piece]]:
        """Return the pieces of each group, in the order of the groups."""
        collected: dict[int, list[_Piece]] = {}
        for piece in (piece for pieces in by_tile for piece in pieces):
            piece.group = self.root(piece.group)
            collected.setdefault(piece.group, []).append(piece)
        return collected


def _touching(first: Tile, second: Tile) -> Tile:
    """Return the overlap of two tiles; where they only touch, the two lines at the seam."""
    common = first.intersect(second)
    if not common.is_empty or (common.top > common.bottom or common.left > common.right):
        return common
    if common.top == common.bottom and common.left == common.right:
        return common  # Corners that touch.
    if common.top == common.bottom:
        return Tile(common.top - 1, common.left, common.bottom + 1, common.right)
    return Tile(common.top, common.left - 1, common.bottom, common.right + 1)


def _join(before: Sequence[_Piece], pieces: Sequence[_Piece], groups: _Groups) -> None:
    """Join the things of two tiles that agree, best ones first, each with at most one."""
    pairs: list[tuple[float, int, _Piece, _Piece]] = []
    for first in before:
        for second in pieces:
            same = first.segment.kind == second.segment.kind == "thing"
            if same and first.segment.label == second.segment.label:
                agreement = _agreement(first, second)
                if agreement >= MIN_AGREEMENT:
                    pairs.append((agreement, len(pairs), first, second))
    used: set[int] = set()
    for _, _, first, second in sorted(pairs, key=lambda pair: (-pair[0], pair[1])):
        if not used & {id(first), id(second)}:
            used |= {id(first), id(second)}
            groups.join(first.group, second.group)


def _agreement(first: _Piece, second: _Piece) -> float:
    """Return the IoU of two pieces in the overlap of their tiles, or of their lines at a seam."""
    region = _touching(first.tile, second.tile)
    own = region.intersect(first.tile), region.intersect(second.tile)
    if own[0].is_empty or own[1].is_empty:
        return 0.0
    boxes = first.box.intersect(own[0]), second.box.intersect(own[1])
    if boxes[0].is_empty or boxes[1].is_empty:
        return 0.0
    masks = [
        piece.mask[box.within(piece.tile)] for piece, box in ((first, own[0]), (second, own[1]))
    ]
    union = np.count_nonzero(masks[0] | masks[1])
    return float(np.count_nonzero(masks[0] & masks[1]) / union) if union else 0.0


def _vote(
    groups: dict[int, list[_Piece]],
    by_tile: Sequence[Sequence[_Piece]],
    shape: tuple[int, int],
    size: int,
    margin: int,
) -> dict[int, dict[str, Any]]:
    """Give every pixel to the group with the most votes.

    Returns:
        The mask of every group as RLE.
    """
    height, width = shape
    numbers = {group: number for number, group in enumerate(groups, 1)}
    winners = np.zeros(shape, np.int32)
    for block in tiles_of(height, width, size, 0):
        here: dict[int, list[_Piece]] = {}
        for pieces in by_tile:
            if not pieces or block.intersect(pieces[0].tile).is_empty:
                continue
            for piece in pieces:
                if not block.intersect(piece.box).is_empty:
                    here.setdefault(piece.group, []).append(piece)
        rows, columns = block.within(Tile(0, 0, height, width))
        target = winners[rows, columns]
        best = np.zeros(target.shape, np.float32)
        votes = np.empty_like(best)
        for group, pieces in here.items():
            votes.fill(0)
            for piece in pieces:
                part = block.intersect(piece.tile)
                weights = _weights(piece.tile, shape, margin)[part.within(piece.tile)]
                score = np.float32(max(piece.segment.score, 1e-6))
                votes[part.within(block)] += score * weights * piece.mask[part.within(piece.tile)]
            is_better = votes > best
            best[is_better] = votes[is_better]
            target[is_better] = numbers[group]
    masks = {}
    for group, pieces in groups.items():
        box = _hull(piece.box for piece in pieces)
        masks[group] = _encode_number(winners, numbers[group], box, size)
    return masks


def _weights(tile: Tile, shape: tuple[int, int], margin: int) -> NDArray[Any]:
    """Return the weights of a tile's pixels, which fall towards borders inside the image."""

    def along(begin: int, end: int, length: int) -> NDArray[Any]:
        positions = np.arange(end - begin)
        weights = np.ones(end - begin, np.float32)
        if begin > 0:
            weights = np.minimum(weights, (positions + 1) / (margin + 1))
        if end < length:
            weights = np.minimum(weights, (end - begin - positions) / (margin + 1))
        return weights.astype(np.float32)

    rows = along(tile.top, tile.bottom, shape[0])
    return rows[:, None] * along(tile.left, tile.right, shape[1])


def _union(pieces: Sequence[_Piece], shape: tuple[int, int]) -> dict[str, Any]:
    """Return the union of the masks of pieces, in the whole image, as RLE."""
    return _merge([_encode_piece(piece.segment, piece.tile, shape) for piece in pieces])


def _encode_piece(segment: Segment, tile: Tile, shape: tuple[int, int]) -> dict[str, Any]:
    left, top, right, bottom = (int(side) for side in segment.box)
    crop = segment.mask[top:bottom, left:right]
    return encode_crop(crop, tile.top + top, tile.left + left, shape)


def _merge(masks: list[dict[str, Any]], *, intersect: bool = False) -> dict[str, Any]:
    return masks[0] if len(masks) == 1 else coco_mask.merge(masks, intersect)


def _merged(
    pieces: Sequence[_Piece], mask: dict[str, Any], shape: tuple[int, int], exclusive: bool
) -> Segment:
    """Return the segment of a group, with the parts of its pieces."""
    first = pieces[0].segment
    parts = list(_merged_parts([(one.segment, one.tile) for one in pieces], mask, shape, exclusive))
    return RleSegment(first.label, first.kind, mask, _mean_score(pieces), parts)


def _merged_parts(
    wholes: Sequence[tuple[Segment, Tile]],
    whole: dict[str, Any],
    shape: tuple[int, int],
    exclusive: bool,
) -> Iterator[Segment]:
    """Yield the parts of a whole, one a label, from those in its tiles."""
    by_label: dict[str, list[tuple[Segment, Tile]]] = {}
    for segment, tile in wholes:
        for part in segment.parts:
            if part.area:
                by_label.setdefault(part.label, []).append((part, tile))
    for label, pieces_of_label in by_label.items():
        mask = _merge([_encode_piece(part, tile, shape) for part, tile in pieces_of_label])
        if exclusive:
            mask = _merge([mask, whole], intersect=True)
        if coco_mask.area(mask):
            parts = list(_merged_parts(pieces_of_label, mask, shape, exclusive))
            pieces = [_Piece(tile, part) for part, tile in pieces_of_label]
            yield RleSegment(label, pieces_of_label[0][0].kind, mask, _mean_score(pieces), parts)


def _mean_score(pieces: Sequence[_Piece]) -> float:
    if len(pieces) == 1:
        return pieces[0].segment.score
    areas = [piece.segment.area for piece in pieces]
    return float(np.average([piece.segment.score for piece in pieces], weights=areas))


def _hull(boxes: Iterable[Tile]) -> Tile:
    tops, lefts, bottoms, rights = zip(
        *((box.top, box.left, box.bottom, box.right) for box in boxes), strict=True
    )
    return Tile(min(tops), min(lefts), max(bottoms), max(rights))


def _compressed(segment: Segment) -> Segment:
    """Return a segment whose mask is kept as RLE."""
    parts = [_compressed(part) for part in segment.parts]
    return RleSegment(segment.label, segment.kind, segment.mask, segment.score, parts)


def encode_crop(crop: NDArray[Any], top: int, left: int, shape: tuple[int, int]) -> dict[str, Any]:
    """Encode a mask that is a rectangle of an image, without an array of the image's size.

    Args:
        crop: [h, w] bool.
        top: first row of the rectangle.
        left: first column.
        shape: (height, width) of the image.

    Returns:
        COCO's compressed RLE of the image, with bytes.
    """
    return _encode_runs([_column_runs(crop, top, left, shape[0])], shape)


def _encode_number(numbers: NDArray[Any], number: int, box: Tile, columns: int) -> dict[str, Any]:
    """Encode where a map has a number inside a rectangle, so many columns at a time."""
    height, width = numbers.shape
    runs = []
    for left in range(box.left, box.right, columns):
        right = min(left + columns, box.right)
        crop = numbers[box.top : box.bottom, left:right] == number
        runs.append(_column_runs(crop, box.top, left, height))
    return _encode_runs(runs, (height, width))


def _column_runs(
    crop: NDArray[Any], top: int, left: int, height: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return begins and ends of the runs of a crop, as positions in the image column by column."""
    rows, columns = crop.shape
    # A row of zeros below each column ends its last run.
    padded = np.zeros((columns, rows + 1), np.int8)
    padded[:, :-1] = crop.T
    changes = np.diff(padded.ravel(), prepend=np.int8(0))
    begins, ends = (
        (left + places // (rows + 1)) * height + top + places % (rows + 1)
        for places in (np.flatnonzero(changes == 1), np.flatnonzero(changes == -1))
    )
    return begins, ends


def _encode_runs(
    runs: Sequence[tuple[NDArray[Any], NDArray[Any]]], shape: tuple[int, int]
) -> dict[str, Any]:
    height, width = shape
    begins, ends = (np.concatenate(values) for values in zip(*runs, strict=True))
    # A run that goes on at the top of the next column is one with it.
    apart = begins[1:] != ends[:-1]
    begins = begins[np.append(True, apart)[: len(begins)]]
    ends = ends[np.append(apart, True)[: len(ends)]]
    borders = np.stack([begins, ends], axis=1).ravel()
    counts = np.diff(borders, prepend=0, append=height * width).tolist()
    if counts[-1] == 0 and len(counts) > 1:
        counts.pop()
    rle: dict[str, Any] = coco_mask.frPyObjects(
        {"size": [height, width], "counts": counts}, height, width
    )
    return rle
