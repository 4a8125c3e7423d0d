"""Ids of pages, things, parts and expressions, unique over all splits of a book."""

from __future__ import annotations

from .classes import SPLITS

_BASE = {split: number * 1_000_000 for number, split in enumerate(SPLITS)}
_GROUP_BASE = 3_000_000
PAGES_A_GROUP = 8
"""Maximum number of pages in a group."""


def image_id(split: str, index: int) -> int:
    """Return the id of page `index` (0-based) of a split; ids start at 1."""
    return _BASE[split] + index + 1


def group_image_id(split: str, index: int, position: int) -> int:
    """Return the id of page `position` (0-based) of group `index`."""
    return _GROUP_BASE + _BASE[split] + index * PAGES_A_GROUP + position + 1


def annotation_id(image: int, segment: int) -> int:
    """Return the id of a segment in all files; a page has at most 31 segments."""
    return image * 32 + segment


def part_annotation_id(image: int, part: int) -> int:
    """Return the id of a part; a page has at most 511 parts."""
    return image * 512 + part


def expression_id(image: int, position: int) -> int:
    """Return the id of expression `position` (0-based); a page has at most 128 expressions."""
    return image * 128 + position


def stem(index: int) -> str:
    """Return the file name of a page without its extension."""
    return f"{index:06d}"
