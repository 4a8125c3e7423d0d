"""Fields of annotations in COCO's format that take the place of masks, and their confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hipie.data.io.fields import finite_number, is_absent
from hipie.data.io.validation import DatasetError, shorten

POINT_COORDS, POINT_LABELS, SCRIBBLES, SCORE = "point_coords", "point_labels", "scribbles", "score"


def read_partial_annotations(
    where: str, entry: dict[str, Any], height: int, width: int
) -> dict[str, Any]:
    """Read the labelled points, scribbles and confidence of an annotation, where it has them.

    Args:
        where: the file and the entry, for error messages.
        entry: a parsed annotation. `point_coords` [[x, y], ...] and `point_labels` (1 on the
            object, 0 beside it) are those of PointSup; `scribbles` are polylines [x, y, x, y, ...]
            on the object; `score` is in 0..1. Positions are pixels of the image.
        height: height of its image, pixels.
        width: width of its image, pixels.

    Returns:
        The fields that the entry has.

    Raises:
        DatasetError: naming the entry and the field, if a field has another form or a position is
            outside of the image.
    """
    fields: dict[str, Any] = {}
    if not is_absent(entry.get(POINT_COORDS)):
        points = [_pair(where, POINT_COORDS, point) for point in _list(where, entry, POINT_COORDS)]
        labels = _list(where, entry, POINT_LABELS)
        if len(labels) != len(points) or any(label not in (0, 1) for label in labels):
            raise DatasetError(
                f'{where}: "{POINT_LABELS}" must have a 0 or 1 for each of the {len(points)} '
                f'"{POINT_COORDS}", not {shorten(labels)}'
            )
        _require_inside(where, POINT_COORDS, points, height, width)
        fields |= {POINT_COORDS: points, POINT_LABELS: [int(label) for label in labels]}
    if not is_absent(entry.get(SCRIBBLES)):
        lines = []
        for line in _list(where, entry, SCRIBBLES):
            numbers = line if isinstance(line, list | tuple) else ()
            pairs = [_pair(where, SCRIBBLES, numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
            if not pairs:
                raise DatasetError(
                    f'{where}: "{SCRIBBLES}" must be lists [x, y, x, y, ...], not {shorten(line)}'
                )
            _require_inside(where, SCRIBBLES, pairs, height, width)
            lines.append([side for pair in pairs for side in pair])
        fields[SCRIBBLES] = lines
    if not is_absent(entry.get(SCORE)):
        score = finite_number(entry[SCORE])
        if score is None or not 0 <= score <= 1:
            raise DatasetError(
                f'{where}: "{SCORE}" must be a number in 0 to 1, not {shorten(entry[SCORE])}'
            )
        fields[SCORE] = score
    return fields


def scribble_box(scribbles: Sequence[Sequence[float]]) -> list[float]:
    """Return the extent [x, y, width, height] of polylines, of at least one pixel."""
    xs = [x for line in scribbles for x in line[0::2]]
    ys = [y for line in scribbles for y in line[1::2]]
    return [min(xs), min(ys), max(max(xs) - min(xs), 1.0), max(max(ys) - min(ys), 1.0)]


def _list(where: str, entry: dict[str, Any], key: str) -> Sequence[Any]:
    value = entry.get(key)
    if not isinstance(value, list | tuple) or not value:
        raise DatasetError(f'{where}: "{key}" must be a list, not {shorten(value)}')
    return value


def _pair(where: str, key: str, value: Any) -> tuple[float, float]:
    numbers = [finite_number(side) for side in value] if isinstance(value, list | tuple) else []
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise DatasetError(f'{where}: "{key}" must have finite [x, y], not {shorten(value)}')
    return numbers[0], numbers[1]


def _require_inside(
    where: str, key: str, points: Sequence[tuple[float, float]], height: int, width: int
) -> None:
    for x, y in points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise DatasetError(
                f'{where}: "{key}" has ({x:g}, {y:g}), which is outside of the image of {width} x '
                f"{height} pixels"
            )
