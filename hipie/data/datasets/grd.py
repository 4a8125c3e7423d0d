"""Reading GRD, which is distributed as D3: expressions over groups of related images.

D3 (Wu et al., ICCV 2023; Xie et al., NeurIPS 2023; `shikras/d-cube`) has four pickles, each a
dictionary keyed by integer ids: `images.pkl`, `annotations.pkl`, `sentences.pkl`, `groups.pkl`.
What an expression means in an image is the union of the image's annotations whose `sent_id` has the
expression; without any, the image is negative. Numbers may be NumPy's, boxes arrays, and a mask one
run length or a list of them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hipie.data.io.gc import pause_garbage_collection
from hipie.data.io.rle import check_segmentation, merge_rles, to_rle
from hipie.data.io.safe_pickle import array_to_list, read_plain_pickle
from hipie.data.io.validation import (
    BOOLEAN,
    FLAG,
    INTEGER,
    INTEGER_LIST,
    NON_EMPTY_STRING,
    STRING,
    DatasetError,
    check_entry,
    check_image_size,
    check_optional,
)

TABLES = {
    "images": {"file_name": STRING, "height": INTEGER, "width": INTEGER, "anno_id": INTEGER_LIST},
    "annotations": {"image_id": INTEGER, "sent_id": INTEGER_LIST},
    "sentences": {"raw_sent": NON_EMPTY_STRING, "is_negative": BOOLEAN},
    "groups": {"img_id": INTEGER_LIST, "inner_sent_id": INTEGER_LIST, "group_name": STRING},
}


@pause_garbage_collection()
def load_grd(
    pickles: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    absence: bool = False,
    across: bool = False,
) -> list[dict[str, Any]]:
    """Read the images with the expressions that they are asked.

    Args:
        pickles: the folder of the four files.
        image_root: the images.
        absence: take expressions about what is missing too ("a dog without a leash").
        across: ask every image the expressions of all groups (D3's inter-group protocol); else
            those of its own group (intra-group).

    Returns:
        records as `load_refcoco`'s, with `group_id` and `group_name`; all images of a group have
        the same expressions in the same order, each with `sent_id` and `targets` (positions in
        `annotations`; empty = the image is negative). By group, then in the group's order.

    Raises:
        FileNotFoundError, DatasetError: naming the file, the entry and the key that is wrong.
    """
    folder = Path(pickles)
    tables = {name: _read_table(folder, name) for name in TABLES}
    every = sorted(tables["sentences"])
    records = []
    for number, group in sorted(tables["groups"].items()):
        where = f"{folder / 'groups.pkl'}: group {number}"
        asked = []
        for identity in every if across else group["inner_sent_id"]:
            expression = _row(tables["sentences"], identity, where, "inner_sent_id")
            if absence or not expression["is_negative"]:
                words = expression["raw_sent"]
                asked.append({"expression": words, "sent_id": identity, "targets": []})
        for image_id in group["img_id"]:
            image = _row(tables["images"], image_id, where, "img_id")
            record = _record(folder, tables["annotations"], image_id, image, asked)
            record["file_name"] = os.path.join(image_root, image["file_name"])
            records.append({**record, "group_id": number, "group_name": group["group_name"]})
    if not any(record["expressions"] for record in records):
        raise DatasetError(f"{folder / 'groups.pkl'}: no group has an image and an expression")
    return records


class GroupQuestions(Sequence[dict[str, Any]]):
    """A question for every expression of every group: what a model of groups is asked.

    Questions are dicts with `group_id`, `group_name`, `expression`, `sent_id` and `images`: the
    records of the group's images, each with this one sentence. By group, then by expression. They
    are made when they are asked for, since each expression may be asked of each image.

    Args:
        records: `load_grd`'s.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self._members: dict[int, list[dict[str, Any]]] = defaultdict(list)
        asked: dict[tuple[int, int], str] = {}
        for record in records:
            self._members[record["group_id"]].append(record)
            for one in record["expressions"]:
                asked.setdefault((record["group_id"], one["sent_id"]), one["expression"])
        self._asked = sorted(asked.items())

    def __len__(self) -> int:
        return len(self._asked)

    def __getitem__(self, number: int) -> dict[str, Any]:  # type: ignore[override]
        (group, expression), words = self._asked[number]
        members = self._members[group]
        return {
            "group_id": group,
            "group_name": members[0]["group_name"],
            "expression": words,
            "sent_id": expression,
            "images": [
                {**record, "expressions": [one]}
                for record in members
                for one in record["expressions"]
                if one["sent_id"] == expression
            ],
        }


def _read_table(folder: Path, name: str) -> dict[int, dict[str, Any]]:
    path = folder / f"{name}.pkl"
    table = read_plain_pickle(path, arrays=True)
    if not isinstance(table, dict):
        raise DatasetError(f"{path}: expected a dictionary, found a {type(table).__name__}")
    found = {}
    for key, row in table.items():
        if type(key) is not int:
            raise DatasetError(f"{path}: the key {key!r} is not a whole number")
        where = f"{path}: entry {key}"
        check_entry(where, row, {})
        found[key] = {name: array_to_list(value) for name, value in row.items()}
        check_entry(where, found[key], TABLES[name])
        if name == "images":
            check_image_size(where, found[key]["height"], found[key]["width"])
    return found


def _row(table: dict[int, dict[str, Any]], number: int, where: str, key: str) -> dict[str, Any]:
    if number not in table:
        raise DatasetError(f'{where}: its "{key}" names {number}, which does not exist')
    return table[number]


def _record(
    folder: Path,
    annotations: dict[int, dict[str, Any]],
    image_id: int,
    image: dict[str, Any],
    asked: list[dict[str, Any]],
) -> dict[str, Any]:
    height, width = image["height"], image["width"]
    objects: list[dict[str, Any]] = []
    places: dict[int, list[int]] = defaultdict(list)
    for number in image["anno_id"]:
        where = f"{folder / 'images.pkl'}: image {image_id}"
        found = _row(annotations, number, where, "anno_id")
        if found["image_id"] != image_id:
            raise DatasetError(f"{where} has annotation {number}, which is of another image")
        for identity in found["sent_id"]:
            places[identity].append(len(objects))
        fault = f"{folder / 'annotations.pkl'}: annotation {number}"
        objects.append(_object(fault, number, found, height, width))
    return {
        "height": height,
        "width": width,
        "image_id": image_id,
        "annotations": objects,
        "expressions": [
            {**one, "targets": places[one["sent_id"]]} if one["sent_id"] in places else one
            for one in asked
        ],
    }


def _object(
    where: str, number: int, found: dict[str, Any], height: int, width: int
) -> dict[str, Any]:
    check_optional(where, found, {"iscrowd": FLAG})
    if "segmentation" not in found:
        raise DatasetError(f'{where} has no "segmentation"')
    given = found["segmentation"]
    pieces = given if isinstance(given, list) and _are_runs(given) else [given]
    for piece in pieces:
        check_segmentation(where, piece, height, width)
    joined = merge_rles([to_rle(piece, height, width) for piece in pieces], height, width)
    return {"id": number, "segmentation": joined, "category_id": 1, "iscrowd": 0}


def _are_runs(given: list[Any]) -> bool:
    return bool(given) and all(isinstance(one, dict) for one in given)
