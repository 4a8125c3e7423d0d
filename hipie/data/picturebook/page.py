"""A page of the picture book and its annotations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .queries import Query
from .segment import Segment


@dataclass(frozen=True)
class Part:
    """Visible part of a thing.

    `mask` (bool [H,W]) includes nested parts: a head includes its eyes. `parent` is the id
    of the part that contains it, None for level 1.
    """

    id: int
    thing_id: int
    name: str
    level: int
    parent: int | None
    mask: NDArray[Any]


@dataclass(frozen=True)
class Expression:
    """A referring expression with the ids of its targets.

    `kind` is "class", "attribute", "place", "relation" or "superlative"; `number` is "one",
    "several" or "none"; `query` is the query that it describes; `novel` is "class" or "pair"
    if it names a class or pair that is held out of training, else "".
    """

    text: str
    targets: tuple[int, ...]
    kind: str
    number: str
    query: Query
    novel: str


@dataclass(frozen=True)
class Page:
    """Rendered page with its annotations.

    `image` uint8 [H,W,3] RGB; `panoptic` int32 [H,W] holds ids of `segments`, 0 is unlabelled;
    `part_map` int32 [H,W] holds ids of `parts` (the innermost one), 0 elsewhere.
    """

    index: int
    split: str
    scene: str
    image: NDArray[Any]
    panoptic: NDArray[Any]
    part_map: NDArray[Any]
    segments: tuple[Segment, ...]
    parts: tuple[Part, ...]
    expressions: tuple[Expression, ...] = field(default=())

    @property
    def things(self) -> tuple[Segment, ...]:
        """Return the segments that are things."""
        return tuple(segment for segment in self.segments if segment.kind == "thing")

    def mask(self, *ids: int) -> NDArray[Any]:
        """Return the union [H, W] bool of the segments with these ids; empty without ids."""
        return np.isin(self.panoptic, ids)


def mask_box(mask: NDArray[Any]) -> tuple[int, int, int, int]:
    """Return the box (x, y, width, height) of a non-empty mask [H, W] bool."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1
