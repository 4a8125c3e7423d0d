"""Picture book: a procedural, fully annotated data set that ships with the package.

`PictureBook(seed, split).page(i)` draws a page; `write_split` writes many to disk in the formats
of COCO panoptic, COCO instances, part maps, RefCOCO, gRefCOCO and GRD. `classes` lists the classes.
"""

from __future__ import annotations

from .book import VERSION, PictureBook
from .classes import (
    CATEGORY_IDS,
    CLASS_NAMES,
    COLOURS,
    HELD_OUT_PAIRS,
    PARTS,
    PATTERNS,
    SEEN_THINGS,
    SIZES,
    SPLITS,
    STUFF,
    THINGS,
    UNSEEN_THINGS,
)
from .disk import PictureBookError, finished, write_split
from .page import Expression, Page, Part
from .queries import Query
from .segment import Segment

__all__ = [
    "CATEGORY_IDS",
    "CLASS_NAMES",
    "COLOURS",
    "HELD_OUT_PAIRS",
    "PARTS",
    "PATTERNS",
    "SEEN_THINGS",
    "SIZES",
    "SPLITS",
    "STUFF",
    "THINGS",
    "UNSEEN_THINGS",
    "VERSION",
    "Expression",
    "Page",
    "Part",
    "PictureBook",
    "PictureBookError",
    "Query",
    "Segment",
    "finished",
    "write_split",
]
