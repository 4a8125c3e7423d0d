"""Pascal-Part's own annotations: a MATLAB file an image, with masks of objects and their parts.

Chen et al., "Detect What You Can", CVPR 2014. A file (version 5) holds one struct `anno` with
`imname` and `objects`, a row of structs `class`, `class_ind` (1 to 20, alphabetical), `mask` and
`parts`, itself a row of structs `part_name` and `mask`, or empty. Masks are 0 or 1, of the
image's size; parts lie over each other, as eyes do over a head, and later ones are on top.

`pascal_part_names.tsv` has the names of every class's parts in the order that Pascal Panoptic Parts
numbers them in, as in the specification of https://github.com/pmeletis/panoptic_parts (Apache-2.0);
"wheel_1-10" are ten names, "headlight*10" likewise, but of one number. So one numbering serves both
editions, and `part_tables` leads from it to the phrases of the registered data sets.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hipie.data.io.matlab import read_matlab
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.label_maps import Job, table_of, write_labels
from hipie.vocabularies.tables import load_classes

MOST_OBJECTS = 999
IGNORED, NUMBERS = 0, 10_000


def part_tables() -> dict[str, np.ndarray]:
    """From class * 100 + part to the 200 phrases ("pano") and the 57 parts ("merged"), from 1."""
    classes = load_classes("pascal_parts_pano")
    pairs = [
        (number, place, group)
        for place, (numbers, group) in enumerate(
            zip(classes.originals, classes.groups, strict=True), 1
        )
        for number in numbers
    ]
    return {
        "pano": table_of([(0, IGNORED), *((n, place) for n, place, _ in pairs)], NUMBERS),
        "merged": table_of([(0, IGNORED), *((n, group) for n, _, group in pairs)], NUMBERS),
    }


def number_parts(job: Job) -> None:
    """Write the label map of one of Pascal-Part's files."""
    (source,) = job.sources
    write_labels(job.target, read_pascal_part(source))


def read_pascal_part(path: Path) -> np.ndarray:
    """The annotation of an image as one label map, numbered as Panoptic Parts numbers its own.

    Returns:
        int32 [H, W]: 0 where there is no object, else `class * 1000 + object` (objects of an image
        from 1), with a part `(class * 1000 + object) * 100 + part`; `decode_uids` takes it apart.

    Raises:
        DatasetError: naming the file, and what is wrong in it.
    """
    try:
        objects = [_object(one) for one in _rows(read_matlab(path), "anno", "objects")]
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path}: this is no annotation of Pascal-Part ({error})") from error
    if not objects:
        raise DatasetError(f"{path}: this annotation of Pascal-Part has no object")
    if len(objects) > MOST_OBJECTS:
        raise DatasetError(f"{path}: there are {len(objects)} objects, more than {MOST_OBJECTS}")
    size = objects[0][1].shape
    labels = np.zeros(size, dtype=np.int32)
    for number, (kind, mask, parts) in enumerate(objects, 1):
        known = part_numbers().get(kind)
        if known is None:
            raise DatasetError(f"{path}: object {number} is of class {kind}; they go from 1 to 20")
        uid = kind * 1000 + number
        labels[_fitting(path, mask, size)] = uid
        for name, shape in parts:
            if name not in known:
                raise DatasetError(
                    f'{path}: object {number} has a part "{name}", which its class {kind} has not'
                )
            labels[_fitting(path, shape, size)] = uid * 100 + known[name]
    return labels


@cache
def part_numbers() -> dict[int, dict[str, int]]:
    """By the class's number, the number of each part's name."""
    text = files(__package__).joinpath("pascal_part_names.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {
        int(row["id"]): {
            name: place for place, names in enumerate(_names(row["parts"]), 1) for name in names
        }
        for row in rows
    }


def _names(text: str) -> Iterator[list[str]]:
    """The names of every number: "body wheel_1-2" -> [body], [wheel_1], [wheel_2]."""
    for word in text.split():
        name, mark, span = re.fullmatch(r"([a-z]+)(?:(_1-|\*)(\d+))?", word).groups()
        each = [f"{name}_{i}" for i in range(1, int(span or 0) + 1)]
        if mark == "*":
            yield each
        else:
            yield from ([one] for one in each or [name])


def _rows(content: Any, *path: str) -> list[dict[str, Any]]:
    """A row of structs, one or more steps inside others; MATLAB may write none as no numbers."""
    for name in path:
        if isinstance(content, list) and len(content) == 1:
            (content,) = content
        if not isinstance(content, dict) or name not in content:
            raise ValueError(f'there is no "{name}"')
        content = content[name]
    if isinstance(content, np.ndarray) and not content.size:
        return []
    if not isinstance(content, list):
        raise ValueError(f'"{path[-1]}" is no row of structs')
    return content


def _object(one: dict[str, Any]) -> tuple[int, np.ndarray, list[tuple[str, np.ndarray]]]:
    """Class, mask, and names and masks of the parts."""
    kind = _table(one, "class_ind", "a class")
    if kind.size != 1 or not 0 < kind[0, 0] < 100 or kind[0, 0] % 1:
        raise ValueError(f"a class is {kind.tolist()}")
    parts = [
        (str(part.get("part_name")), _table(part, "mask", "a mask") > 0)
        for part in _rows(one, "parts")
    ]
    return int(kind[0, 0]), _table(one, "mask", "a mask") > 0, parts


def _table(struct: dict[str, Any], key: str, what: str) -> np.ndarray:
    values = struct.get(key)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size:
        raise ValueError(f"{what} is no table of numbers")
    return values


def _fitting(path: Path, mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if mask.shape != size:
        raise DatasetError(f"{path}: a mask is {mask.shape}, the first one {size}")
    return mask
