"""Reader of GRD, which is distributed as D3: expressions over groups of related images.

D3 (Wu et al., ICCV 2023; Xie et al., NeurIPS 2023; `shikras/d-cube`) has four pickles, each a
dictionary with integer ids as keys: `images.pkl`, `annotations.pkl`, `sentences.pkl` and
`groups.pkl`. The target of an expression in an image is the union of the image's annotations whose
`sent_id` contains the expression; without any, the image is negative. Numbers may be NumPy's, boxes
NumPy arrays, and a mask one RLE or a list of them.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hipie.data.datasets.object_reader import ObjectReader
from hipie.data.io.fields import (
    BOOLEAN,
    TEXT,
    WHOLE_NUMBER,
    WHOLE_NUMBERS,
    EntryFaults,
    read_field,
    read_optional,
    require_entry,
    require_inside,
    whole_number,
)
from hipie.data.io.gc import pause_garbage_collection
from hipie.data.io.paths import missing_images
from hipie.data.io.rle import as_text, to_rle
from hipie.data.io.safe_pickle import array_to_list, read_plain_pickle
from hipie.data.io.validation import DatasetError, check_image_size, shorten

# Table (and name of its pickle) -> fields.
TABLES = {
    "images": {
        "file_name": TEXT,
        "height": WHOLE_NUMBER,
        "width": WHOLE_NUMBER,
        "anno_id": WHOLE_NUMBERS,
    },
    "annotations": {"image_id": WHOLE_NUMBER, "sent_id": WHOLE_NUMBERS},
    "sentences": {"raw_sent": TEXT, "is_negative": BOOLEAN},
    "groups": {"img_id": WHOLE_NUMBERS, "inner_sent_id": WHOLE_NUMBERS, "group_name": TEXT},
}
# Fields that may be absent, and what they then are: D3 marks expressions of absence only.
OPTIONAL = {"anno_id": [], "sent_id": [], "inner_sent_id": [], "is_negative": 0}
Table = dict[int, dict[str, Any]]


@pause_garbage_collection()
def load_grd(
    pickles: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    absence_expressions: bool = False,
    inter_group: bool = False,
) -> list[dict[str, Any]]:
    """Read the images with the expressions of their groups.

    Args:
        pickles: folder of the four files.
        image_root: folder of the images.
        absence_expressions: include expressions of absence ("a dog without a leash").
        inter_group: give every image the expressions of all groups (D3's inter-group protocol),
            instead of those of its own group (intra-group).

    Returns:
        Records as of `load_refcoco`, with `group_id` and `group_name`. All images of a group have
        the same expressions in the same order, each with `sent_id` and `targets` (positions in
        `annotations`; empty = the image is negative). Sorted by group id, then in the group's
        order.

    Raises:
        FileNotFoundError, DatasetError: naming the files and their wrong entries.
    """
    folder = Path(pickles)
    faults = EntryFaults(folder)
    tables = {name: _read_table(folder, name, faults) for name in TABLES}
    faults.raise_if_any()
    missing_images(tables["images"].values(), image_root)  # corrects the spelling of names
    objects = ObjectReader(folder / "annotations.pkl", test_intersection=False, strict=True)
    all_ids = sorted(tables["sentences"])
    records = []
    for group_id, group in sorted(tables["groups"].items()):
        where = f"{folder / 'groups.pkl'}: group {group_id}"
        expressions = []
        try:
            for sent_id in all_ids if inter_group else group["inner_sent_id"]:
                row = _row(tables["sentences"], sent_id, where, "inner_sent_id")
                if absence_expressions or not row["is_negative"]:
                    expressions.append(
                        {"expression": row["raw_sent"], "sent_id": sent_id, "targets": []}
                    )
        except DatasetError as error:
            faults.add(error)
        for image_id in group["img_id"]:
            try:
                image = _row(tables["images"], image_id, where, "img_id")
                record = _record(
                    folder, tables["annotations"], image_id, image, expressions, objects
                )
            except DatasetError as error:
                faults.add(error)
                continue
            record["file_name"] = os.path.join(image_root, image["file_name"])
            records.append({**record, "group_id": group_id, "group_name": group["group_name"]})
    faults.raise_if_any()
    objects.warn()
    if not any(record["expressions"] for record in records):
        raise DatasetError(f"{folder / 'groups.pkl'}: no group has an image and an expression")
    return records


class GroupSamples(Sequence[dict[str, Any]]):
    """Evaluation samples of a group data set: one for every expression of every group.

    A sample is a dict with `group_id`, `group_name`, `expression`, `sent_id` and `images`: the
    records of the group's images, each with this expression only. Sorted by group id and
    expression id. Samples are built when they are indexed, since every expression may belong to
    every image.

    Args:
        records: records of `load_grd`.
    """

    def __init__(self, records: Sequence[dict[str, Any]]) -> None:
        self._records = records
        self._images: dict[int, list[int]] = defaultdict(list)
        expressions: dict[tuple[int, int], str] = {}
        for position, record in enumerate(records):
            self._images[record["group_id"]].append(position)
            for entry in record["expressions"]:
                key = record["group_id"], entry["sent_id"]
                expressions.setdefault(key, entry["expression"])
        self._expressions = sorted(expressions.items())

    def __len__(self) -> int:
        return len(self._expressions)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        (group_id, sent_id), expression = self._expressions[index]
        images = [self._records[position] for position in self._images[group_id]]
        return {
            "group_id": group_id,
            "group_name": images[0]["group_name"],
            "expression": expression,
            "sent_id": sent_id,
            "images": [
                {**record, "expressions": [entry]}
                for record in images
                for entry in record["expressions"]
                if entry["sent_id"] == sent_id
            ],
        }


def _read_table(folder: Path, name: str, faults: EntryFaults) -> Table:
    path = folder / f"{name}.pkl"
    content = read_plain_pickle(path, arrays=True)
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected a dictionary, not a {type(content).__name__}")
    table: Table = {}
    for key, row in content.items():
        try:
            number = whole_number(key)
            if number is None:
                raise DatasetError(f"{path}: the key {shorten(key)} is not an integer")
            if number in table:
                raise DatasetError(f"{path}: two entries have the key {number}")
            table[number] = _read_row(f"{path}: entry {number}", row, name)
        except DatasetError as error:
            faults.add(error)
    return table


def _read_row(where: str, row: Any, name: str) -> dict[str, Any]:
    """Return a row of a table with its fields in standard form."""
    entry = {key: array_to_list(value) for key, value in require_entry(where, row).items()}
    for key, kind in TABLES[name].items():
        if key in OPTIONAL:
            entry[key] = read_optional(where, entry, key, kind, OPTIONAL[key])
        else:
            entry[key] = read_field(where, entry, key, kind)
    if name == "images":
        require_inside(where, "file_name", entry["file_name"])
        check_image_size(where, entry["height"], entry["width"])
    return entry


def _row(table: Table, row_id: int, where: str, key: str) -> dict[str, Any]:
    if row_id not in table:
        raise DatasetError(f'{where}: its "{key}" names {row_id}, which does not exist')
    return table[row_id]


def _record(
    folder: Path,
    annotations: Table,
    image_id: int,
    image: dict[str, Any],
    expressions: list[dict[str, Any]],
    objects: ObjectReader,
) -> dict[str, Any]:
    height, width = image["height"], image["width"]
    image_annotations: list[dict[str, Any]] = []
    targets: dict[int, list[int]] = defaultdict(list)
    for annotation_id in image["anno_id"]:
        where = f"{folder / 'images.pkl'}: image {image_id}"
        annotation = _row(annotations, annotation_id, where, "anno_id")
        if annotation["image_id"] != image_id:
            raise DatasetError(f"{where} has annotation {annotation_id}, which is of another image")
        for sent_id in annotation["sent_id"]:
            targets[sent_id].append(len(image_annotations))
        where = f"{folder / 'annotations.pkl'}: annotation {annotation_id}"
        mask_only = {key: value for key, value in annotation.items() if key != "bbox"}
        checked = objects.read(where, annotation_id, mask_only, height, width)
        if checked is None:
            raise DatasetError(f"{where} has no pixel in its image")
        image_annotations.append(
            {
                "id": annotation_id,
                "segmentation": as_text(to_rle(checked["segmentation"], height, width)),
                "category_id": 1,
                "iscrowd": 0,
            }
        )
    return {
        "height": height,
        "width": width,
        "image_id": image_id,
        "annotations": image_annotations,
        "expressions": [
            {**entry, "targets": targets[entry["sent_id"]]}
            if entry["sent_id"] in targets
            else entry
            for entry in expressions
        ],
    }
