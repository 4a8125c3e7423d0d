"""Conversion of Pascal-Part's annotations: one MATLAB file per image, with object and part masks.

Chen et al., "Detect What You Can", CVPR 2014. A file (version 5) holds one struct `anno` with
`imname` and `objects`, a row of structs `class`, `class_ind` (1 to 20, alphabetical), `mask` and
`parts`, itself a row of structs `part_name` and `mask`, or empty. Masks have the values 0 and 1 and
the image's size; parts may overlap (eyes and head), and later ones are pasted over earlier ones.

`pascal_part_names.tsv` has the part names of every class in the order of the part numbers in Pascal
Panoptic Parts, as in the specification of https://github.com/pmeletis/panoptic_parts (Apache-2.0);
"wheel_1-10" stands for ten names with ten numbers, "headlight*10" for ten names with one number. So
both editions have the same numbers, which `part_tables` converts to the labels of the registered
data sets.
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
from numpy.typing import NDArray

from hipie.data.io.matlab import read_matlab
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.label_maps import Job, lookup_table, write_labels
from hipie.errors import InputError, cause_of
from hipie.vocabularies.tables import load_classes

MAX_OBJECTS = 999
IGNORE_LABEL, NUM_LABELS = 0, 10_000


def part_tables() -> dict[str, NDArray[Any]]:
    """Return the lookup tables from class * 100 + part to the labels of the registered data sets.

    Returns:
        "pano" (200 classes and parts) and "merged" (57 parts), int32 [10000]; labels from 1, 0 =
        ignored.
    """
    classes = load_classes("pascal_parts_pano")
    pairs = [
        (number, position, group)
        for position, (numbers, group) in enumerate(
            zip(classes.originals, classes.groups, strict=True), 1
        )
        for number in numbers
    ]
    return {
        "pano": lookup_table(
            [(0, IGNORE_LABEL), *((n, position) for n, position, _ in pairs)], NUM_LABELS
        ),
        "merged": lookup_table(
            [(0, IGNORE_LABEL), *((n, group) for n, _, group in pairs)], NUM_LABELS
        ),
    }


def number_parts(job: Job) -> None:
    """Convert a file of Pascal-Part to a label map of Panoptic Parts."""
    (source,) = job.sources
    write_labels(job.target, read_pascal_part(source))


def read_pascal_part(path: Path) -> NDArray[Any]:
    """Read an annotation as a label map in the encoding of Panoptic Parts (see `decode_uids`).

    Returns:
        int32 [H, W]: 0 where there is no object, `class * 1000 + object` for objects (numbered from
        1), `(class * 1000 + object) * 100 + part` for parts.

    Raises:
        DatasetError: naming the file and the fault.
    """
    try:
        objects = [_parse_object(entry) for entry in _structs(read_matlab(path), "anno", "objects")]
    except (ValueError, OSError) as error:
        raise DatasetError(
            f"{path}: this is not an annotation of Pascal-Part ({cause_of(error)})"
        ) from error
    if not objects:
        raise DatasetError(f"{path}: this annotation of Pascal-Part has no object")
    if len(objects) > MAX_OBJECTS:
        raise DatasetError(f"{path}: there are {len(objects)} objects, more than {MAX_OBJECTS}")
    size = objects[0][1].shape
    labels = np.zeros(size, dtype=np.int32)
    for number, (class_id, mask, parts) in enumerate(objects, 1):
        numbers_by_part = part_numbers().get(class_id)
        if numbers_by_part is None:
            raise DatasetError(
                f"{path}: object {number} has the class {class_id}, which is not in 1 to 20"
            )
        uid = class_id * 1000 + number
        labels[_check_size(path, mask, size)] = uid
        for name, part_mask in parts:
            if name not in numbers_by_part:
                raise DatasetError(
                    f'{path}: object {number} of class {class_id} has the unknown part "{name}"'
                )
            labels[_check_size(path, part_mask, size)] = uid * 100 + numbers_by_part[name]
    return labels


@cache
def part_numbers() -> dict[int, dict[str, int]]:
    """Return class number -> part name -> part number."""
    text = files(__package__).joinpath("pascal_part_names.tsv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {
        int(row["id"]): {
            name: number
            for number, names in enumerate(_part_names(row["parts"]), 1)
            for name in names
        }
        for row in rows
    }


def _part_names(text: str) -> Iterator[list[str]]:
    """Yield the names of each number: "body wheel_1-2" -> [body], [wheel_1], [wheel_2]."""
    for name, mark, count in re.findall(r"([a-z]+)(?:(_1-|\*)(\d+))?(?:\s+|$)", text):
        names = [f"{name}_{i}" for i in range(1, int(count or 0) + 1)] or [name]
        if mark == "*":
            yield names
        else:
            yield from ([numbered] for numbered in names)


def _structs(content: Any, *path: str) -> list[dict[str, Any]]:
    """Return nested structs by their path; MATLAB may store no structs as an empty array."""
    for name in path:
        if isinstance(content, list) and len(content) == 1:
            (content,) = content
        if not isinstance(content, dict) or name not in content:
            raise InputError(f'there is no "{name}"')
        content = content[name]
    if isinstance(content, np.ndarray) and not content.size:
        return []
    if not isinstance(content, list):
        raise InputError(f'"{path[-1]}" is not a row of structs')
    return content


def _parse_object(
    entry: dict[str, Any],
) -> tuple[int, NDArray[Any], list[tuple[str, NDArray[Any]]]]:
    """Return class, mask, and names and masks of the parts."""
    class_id = _matrix(entry, "class_ind", "a class")
    if class_id.size != 1 or not 0 < class_id[0, 0] < 100 or class_id[0, 0] % 1:
        raise InputError(f"a class is {class_id.tolist()}")
    parts = [
        (str(part.get("part_name")), _matrix(part, "mask", "a mask") > 0)
        for part in _structs(entry, "parts")
    ]
    return int(class_id[0, 0]), _matrix(entry, "mask", "a mask") > 0, parts


def _matrix(struct: dict[str, Any], key: str, name: str) -> NDArray[Any]:
    values = struct.get(key)
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not values.size:
        raise InputError(f"{name} is not a numeric matrix")
    return values


def _check_size(path: Path, mask: NDArray[Any], size: tuple[int, ...]) -> NDArray[Any]:
    if mask.shape != size:
        raise DatasetError(f"{path}: a mask has the shape {mask.shape}, the first one {size}")
    return mask
