"""Class names of the public data sets, as tables beside this file; README.md says whence they are.

A table has a header and one tab-separated row a class, in the order of captions and score columns:

* `id`: the number that the annotation files of the data set use;
* `kind`: thing, stuff or part;
* `name`: what BERT reads. In brackets stands only what tells two equal names apart: captions leave
  it out;
* `synonyms`: what CLIP reads instead, comma-separated; empty = the name;
* `whole`, `group`: of part data sets, what a part belongs to, and its number from 1 among coarser
  parts (0 = none);
* `original`: where preparation changes the numbers, those of the files as distributed; commas and
  ranges ("101,106-115"). In panoptic parts, class * 100 + part, or the class alone;
* `set`: of collections (ODinW, SegInW), which of the data sets a row is of.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

COLLECTIONS = ("odinw", "seginw")


@dataclass(frozen=True)
class ClassTable:
    """The classes of one data set.

    Attributes:
        vocabulary: K classes.
        ids: K numbers of the annotation files.
        groups: K numbers of coarser parts from 1, 0 = none; empty where the data set has none.
        originals: K times the numbers of the files as distributed; empty where they are not listed.
    """

    vocabulary: Vocabulary
    ids: tuple[int, ...]
    groups: tuple[int, ...] = ()
    originals: tuple[tuple[int, ...], ...] = ()

    @property
    def contiguous(self) -> Mapping[int, int]:
        """Annotation id -> position in the vocabulary."""
        return {number: i for i, number in enumerate(self.ids)}

    @property
    def things(self) -> Mapping[int, int]:
        """Annotation id -> position in the vocabulary, of things only."""
        is_thing = self.vocabulary.is_thing
        return {number: i for i, number in enumerate(self.ids) if is_thing[i]}


def load_vocabulary(name: str) -> Vocabulary:
    """The vocabulary of a public data set, such as "coco_panoptic" or "seginw_Chicken".

    Raises:
        ValueError: if there is none of that name; the message has the nearest ones.
    """
    return load_classes(name).vocabulary


def load_classes(name: str) -> ClassTable:
    """The vocabulary of a public data set, with the numbers that its files use.

    Raises:
        ValueError: if there is none of that name; the message has the nearest ones.
    """
    tables = _tables()
    if name not in tables:
        near = difflib.get_close_matches(name, tables, 3, 0.5)
        hint = f"; near ones are {', '.join(near)}" if near else ""
        raise ValueError(f'there is no vocabulary "{name}"{hint}')
    return tables[name]


def vocabulary_names() -> tuple[str, ...]:
    """The names that `load_vocabulary` takes, sorted."""
    return tuple(sorted(_tables()))


def seen_classes(vocabulary: Vocabulary, trained: str = "coco_panoptic") -> tuple[bool, ...]:
    """Which classes a model knows from its training: those that share a name with it.

    Names are compared as CLIP reads them: a class's synonyms, or its name where it has none.

    Args:
        vocabulary: K classes.
        trained: the vocabulary of the training data.

    Returns:
        K truth values.
    """
    known = {word for one in load_vocabulary(trained).classes for word in one.phrases}
    return tuple(not known.isdisjoint(one.phrases) for one in vocabulary.classes)


def collection(family: str) -> tuple[str, ...]:
    """The names of the data sets in "odinw" or "seginw", without the family's."""
    start = f"{family}_"
    return tuple(n.removeprefix(start) for n in vocabulary_names() if n.startswith(start))


@cache
def _tables() -> Mapping[str, ClassTable]:
    found: dict[str, ClassTable] = {}
    for file in files(__package__).iterdir():
        name, _, ending = file.name.rpartition(".")
        if ending != "tsv":
            continue
        text = file.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
        if name in COLLECTIONS:
            for one in dict.fromkeys(row["set"] for row in rows):
                found[f"{name}_{one}"] = _class_table([r for r in rows if r["set"] == one])
        else:
            found[name] = _class_table(rows)
    return MappingProxyType(found)


def _class_table(rows: list[dict[str, str]]) -> ClassTable:
    classes = [
        VocabularyClass(
            row["name"],
            row["kind"],
            tuple(row["synonyms"].split(",")) if row.get("synonyms") else (),
            row.get("whole") or None,
        )
        for row in rows
    ]
    groups = tuple(int(row["group"]) for row in rows) if "group" in rows[0] else ()
    originals = tuple(_numbers(row["original"]) for row in rows) if "original" in rows[0] else ()
    ids = tuple(int(row["id"]) for row in rows)
    return ClassTable(Vocabulary(tuple(classes)), ids, groups, originals)


def _numbers(text: str) -> tuple[int, ...]:
    """ "101,106-108" -> 101, 106, 107, 108."""
    found: list[int] = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return tuple(found)
