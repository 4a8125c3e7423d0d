"""Segments of a page of the picture book."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """Thing, or all pixels of a stuff class, on a page.

    `bbox` is (x, y, width, height) of the visible pixels, `area` their number. `colour`, `size`,
    `pattern`, `ground` and `height` are None for stuff; `ground` is the stuff a thing is on or
    in, None if it is ambiguous; `height` is the drawn height in pixels, occluded parts included.
    """

    id: int
    name: str
    kind: str
    bbox: tuple[int, int, int, int]
    area: int
    colour: str | None = None
    size: str | None = None
    pattern: str | None = None
    ground: str | None = None
    height: float | None = None
