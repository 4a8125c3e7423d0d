"""Generator of the pages and groups of a split, each determined by seed, split and index."""

from __future__ import annotations

import zlib

import numpy as np

from hipie.errors import InputError

from .classes import SPLITS
from .composition import draw_page
from .groups import Group, draw_group
from .page import Page
from .placing import sample_novel_spec

VERSION = 1
"""Incremented when the same (seed, split, index) would give other pixels or annotations."""

_PAGES, _GROUPS = 0, 1


class PictureBook:
    """Random-access generator of the pages and groups of one split.

    Args:
        seed: seed of the book; other seeds give other pages with the same classes.
        split: "train", "val" or "unseen". Their random streams are disjoint, and only "unseen"
            shows `UNSEEN_THINGS` and `HELD_OUT_PAIRS`, on every page.

    Raises:
        ValueError: for another split or a negative seed.
    """

    def __init__(self, seed: int = 0, split: str = "train") -> None:
        if split not in SPLITS:
            raise InputError(f"the picture book has no split {split!r}; it has {', '.join(SPLITS)}")
        if seed < 0:
            raise InputError(f"the picture book's seed must not be negative, but is {seed}")
        self.seed, self.split = seed, split

    def random(self, stream: int, index: int) -> np.random.Generator:
        """Return the random generator of page or group `index` (stream 0: pages, 1: groups)."""
        if index < 0:
            raise ValueError(f"pages are numbered from 0, so there is no page {index}")
        return np.random.default_rng(
            [VERSION, self.seed, zlib.crc32(self.split.encode()), stream, index]
        )

    def page(self, index: int) -> Page:
        """Draw page `index` (0, 1, ...)."""
        rng = self.random(_PAGES, index)
        required_things = (sample_novel_spec(rng),) if self.split == "unseen" else ()
        return draw_page(rng, self.split, index, required_things)

    def group(self, index: int) -> Group:
        """Draw group `index`: an expression and pages, some of which show its target."""
        return draw_group(self.random(_GROUPS, index), self.split, index)
