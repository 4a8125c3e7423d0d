"""Class tables of the public data sets, tab-separated files in this package.

README.md lists their sources. A table has a header and one row for each class, in the order of
captions and score columns:

* `id`: the number that the annotation files of the data set use;
* `kind`: thing, stuff or part;
* `name`: prompt for BERT. Text in brackets only distinguishes equal names and is left out of
  captions;
* `synonyms`: prompts for CLIP, comma-separated; empty = the name;
* `whole`, `group`: in part data sets, the class that a part belongs to, and the index (from 1) of
  its coarser part (0 = none);
* `original`: where preparation changes the ids, those of the files as distributed; commas and
  ranges ("101,106-115"). In panoptic parts, class * 100 + part, or the class alone;
* `set`: in collections (ODinW, SegInW), the data set of the row.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

COLLECTIONS = ("odinw", "seginw")


@dataclass(frozen=True)
class ClassTable:
    """The classes of one data set.

    Attributes:
        vocabulary: K classes.
        ids: K category ids of the annotation files.
        groups: K indices of coarser parts from 1, 0 = none; empty if the data set has none.
        originals: K tuples of ids in the files as distributed; empty if they are not listed.
    """

    vocabulary: Vocabulary
    ids: tuple[int, ...]
    groups: tuple[int, ...] = ()
    originals: tuple[tuple[int, ...], ...] = ()

    @property
    def contiguous(self) -> Mapping[int, int]:
        """Category id -> position in the vocabulary."""
        return {category: index for index, category in enumerate(self.ids)}

    @property
    def things(self) -> Mapping[int, int]:
        """Category id -> position in the vocabulary, things only."""
        is_thing = self.vocabulary.is_thing
        return {category: index for index, category in enumerate(self.ids) if is_thing[index]}


def load_vocabulary(name: str) -> Vocabulary:
    """Load the vocabulary of a public data set, such as "coco_panoptic" or "seginw_Chicken".

    Raises:
        ValueError: if there is no such vocabulary; the message suggests similar names.
    """
    return load_classes(name).vocabulary


def load_classes(name: str) -> ClassTable:
    """Load the vocabulary of a public data set with the category ids of its files.

    Raises:
        ValueError: if there is no such vocabulary; the message suggests similar names.
    """
    tables = _tables()
    if name not in tables:
        similar = difflib.get_close_matches(name, tables, 3, 0.5)
        hint = f"; similar names are {', '.join(similar)}" if similar else ""
        raise InputError(f'there is no vocabulary "{name}"{hint}')
    return tables[name]


def vocabulary_names() -> tuple[str, ...]:
    """Sorted names that `load_vocabulary` accepts."""
    return tuple(sorted(_tables()))


def collection_datasets(collection: str) -> tuple[str, ...]:
    """Names of the data sets in "odinw" or "seginw", without the collection's prefix."""
    prefix = f"{collection}_"
    return tuple(
        name.removeprefix(prefix) for name in vocabulary_names() if name.startswith(prefix)
    )


@lru_cache(maxsize=1)
def _tables() -> Mapping[str, ClassTable]:
    tables: dict[str, ClassTable] = {}
    for file in files(__package__).iterdir():
        name, _, ending = file.name.rpartition(".")
        if ending != "tsv":
            continue
        text = file.read_text(encoding="utf-8")
        rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
        if name in COLLECTIONS:
            for dataset in dict.fromkeys(row["set"] for row in rows):
                own_rows = [row for row in rows if row["set"] == dataset]
                tables[f"{name}_{dataset}"] = _class_table(own_rows)
        else:
            tables[name] = _class_table(rows)
    return MappingProxyType(tables)


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
    """Expand "101,106-108" to 101, 106, 107, 108."""
    numbers: list[int] = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return tuple(numbers)
