"""Ids of pages, things, parts and expressions, unique over all splits of a book."""

from __future__ import annotations

from .classes import SPLITS

_BASE = {split: number * 1_000_000 for number, split in enumerate(SPLITS)}
_GROUP_BASE = 3_000_000
PAGES_A_GROUP = 8
"""Most pages in a group."""


def image_id(split: str, index: int) -> int:
    """The id of page `index` of a split, 1-based."""
    return _BASE[split] + index + 1


def group_image_id(split: str, index: int, place: int) -> int:
    """The id of page `place` (0-based) of group `index`."""
    return _GROUP_BASE + _BASE[split] + index * PAGES_A_GROUP + place + 1


def annotation_id(image: int, segment: int) -> int:
    """The id of a segment of a page in every file: at most 31 segments a page."""
    return image * 32 + segment


def part_annotation_id(image: int, part: int) -> int:
    """The id of a part: at most 511 a page."""
    return image * 512 + part


def expression_id(image: int, place: int) -> int:
    """Return the id of expression `place` (0-based) of a page: at most 128 per page."""
    return image * 128 + place


def stem(index: int) -> str:
    """A page's file name without its extension."""
    return f"{index:06d}"
