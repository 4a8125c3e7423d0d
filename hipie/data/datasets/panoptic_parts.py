"""Panoptic Parts data sets (de Geus et al., CVPR 2021): label encoding and evaluated classes.

A label encodes class, object and part of a pixel in one number: `class` (up to 99),
`class * 1000 + object` (up to 99999), or `class * 100000 + object * 100 + part`.

`part_classes.tsv` has the published evaluation settings of Pascal Panoptic Parts (59 classes, 57
parts) and Cityscapes Panoptic Parts (19 classes, 23 parts), as in the evaluation specifications of
https://github.com/pmeletis/panoptic_parts (Apache-2.0). In its column `parts`, the k-th list
(from 1, separated by ";") has the part numbers of the label maps that are evaluated as part k; 0 =
unlabelled. Pascal's maps number the wheels, windows, ... of an object separately, hence the ranges.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.errors import InputError

NO_OBJECT = -1
MAX_LABEL = 9_999_999


@dataclass(frozen=True)
class PanopticParts:
    """Decoded label map of one image, int64 [H, W] each.

    Attributes:
        classes: class number.
        objects: object number within the image, `NO_OBJECT` where the label has none.
        parts: part number within the class, 0 where the label has none.
    """

    classes: NDArray[Any]
    objects: NDArray[Any]
    parts: NDArray[Any]


@dataclass(frozen=True)
class PartClass:
    """Class that PartPQ is evaluated for.

    Attributes:
        name: class name.
        numbers: class numbers of the label maps that are this class.
        thing: whether the class has objects.
        parts: part number in the label maps -> part number in predictions, from 1; several may be
            equal. Empty for a class without parts.
        part_names: names of the parts 1, 2, ... in predictions; may be empty.
    """

    name: str
    numbers: tuple[int, ...]
    thing: bool
    parts: Mapping[int, int] = field(default_factory=dict)
    part_names: tuple[str, ...] = ()

    @property
    def has_parts(self) -> bool:
        """Whether the class has more than one part."""
        return len(set(self.parts.values())) > 1


def decode_uids(uids: NDArray[Any]) -> PanopticParts:
    """Decode a label map of Panoptic Parts.

    Args:
        uids: integers [H, W], 0 to 9999999.

    Raises:
        ValueError: if a label is outside this range.
    """
    labels = np.asarray(uids)
    narrow = labels.dtype.itemsize < 4 or labels.dtype == np.int32
    labels = labels.astype(np.int32 if narrow else np.int64, copy=False)
    if labels.size and (labels.min() < 0 or labels.max() > MAX_LABEL):
        raise InputError(
            f"a label of panoptic parts is {labels.max()}, outside of 0 to {MAX_LABEL}"
        )
    has_part, has_object = labels >= 100_000, labels >= 1_000
    without_part = np.where(has_part, labels // 100, labels)
    return PanopticParts(
        classes=np.where(has_object, without_part // 1_000, labels),
        objects=np.where(has_object, without_part % 1_000, NO_OBJECT),
        parts=np.where(has_part, labels % 100, 0),
    )


def load_part_classes(name: str) -> list[PartClass]:
    """Return the published classes of "pascal" or "cityscapes": things, then stuff."""
    text = files(__package__).joinpath("part_classes.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        PartClass(
            row["name"],
            (int(row["id"]),),
            row["kind"] == "thing",
            _parse_parts(row["parts"]),
            tuple(row["part_names"].split(";")) if row["part_names"] else (),
        )
        for row in rows
        if row["set"] == name
    ]


def _parse_parts(text: str) -> dict[int, int]:
    """Parse a list of parts: "1-2,7;3" -> {1: 1, 2: 1, 7: 1, 3: 2}."""
    parts = {}
    for number, group in enumerate(text.split(";") if text else (), 1):
        for interval in group.split(","):
            first, _, last = interval.partition("-")
            parts.update(dict.fromkeys(range(int(first), int(last or first) + 1), number))
    return parts
