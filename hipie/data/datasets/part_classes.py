"""The classes that PartPQ is counted for, and which parts of theirs are told apart.

`part_classes.tsv` has the published choices for Pascal Panoptic Parts (59 classes, 57 parts) and
Cityscapes Panoptic Parts (19 classes, 23 parts), those of de Geus et al., CVPR 2021, as in the
evaluation specifications of https://github.com/pmeletis/panoptic_parts (Apache-2.0). In `parts`,
place k (from 1, after ";") lists the label maps' numbers that are part k; 0 = no part is labelled.
Pascal's maps number the wheels, windows, ... of an object one by one, hence the ranges.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files


@dataclass(frozen=True)
class PartClass:
    """A class that PartPQ is counted for.

    Attributes:
        name: its name.
        numbers: the numbers of the data set that are this class.
        thing: whether it has objects.
        parts: the part's number in the label map -> its number in predictions, from 1.
            Several may have the same. Empty: the class has no parts.
        part_names: of the parts 1, 2, ... in predictions; may be left out.
    """

    name: str
    numbers: tuple[int, ...]
    thing: bool
    parts: Mapping[int, int] = field(default_factory=dict)
    part_names: tuple[str, ...] = ()

    @property
    def has_parts(self) -> bool:
        """Whether there is more than one part to tell apart."""
        return len(set(self.parts.values())) > 1


def load_part_classes(name: str) -> list[PartClass]:
    """The published classes of "pascal" or "cityscapes": things, then stuff."""
    text = files(__package__).joinpath("part_classes.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [
        PartClass(
            row["name"],
            (int(row["id"]),),
            row["kind"] == "thing",
            _parts(row["parts"]),
            tuple(row["part_names"].split(";")) if row["part_names"] else (),
        )
        for row in rows
        if row["set"] == name
    ]


def _parts(text: str) -> dict[int, int]:
    """ "1-2,7;3" -> {1: 1, 2: 1, 7: 1, 3: 2}."""
    found = {}
    for number, group in enumerate(text.split(";") if text else (), 1):
        for piece in group.split(","):
            first, _, last = piece.partition("-")
            found.update(dict.fromkeys(range(int(first), int(last or first) + 1), number))
    return found
