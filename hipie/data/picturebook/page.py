"""What a page of the picture book holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .queries import Query
from .segment import Segment


@dataclass(frozen=True)
class Part:
    """One visible part of one thing.

    `mask` (bool [H,W]) includes the parts inside it: a head includes its eyes. `parent` is the id
    of the part that holds it, None for level 1.
    """

    id: int
    thing_id: int
    name: str
    level: int
    parent: int | None
    mask: NDArray[Any]


@dataclass(frozen=True)
class Expression:
    """A sentence, the ids of the things that it describes, and how it describes them.

    `kind` is "class", "attribute", "place", "relation" or "superlative"; `number` is "one",
    "several" or "none"; `query` is what the sentence means; `novel` tells whether it names a thing
    or pair that training never shows.
    """

    text: str
    targets: tuple[int, ...]
    kind: str
    number: str
    query: Query
    novel: str


@dataclass(frozen=True)
class Page:
    """One drawn page with its annotations.

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
        return tuple(segment for segment in self.segments if segment.kind == "thing")

    def mask(self, *ids: int) -> NDArray[Any]:
        """Union, bool [H,W], of the segments of these ids; empty for none."""
        return np.isin(self.panoptic, ids)
