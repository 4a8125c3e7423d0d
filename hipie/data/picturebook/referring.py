"""Writer of referring expressions in the formats of RefCOCO and gRefCOCO, all splits in one file.

refer/refs(picturebook).p       RefCOCO: pickled (protocol 2) list of dicts, one per thing
                                that an expression describes alone; `split` is train, val or unseen
refer/instances.json            COCO instances of all splits; file_name is relative to images/
refer/sentences.json            {sent_id: {kind, number, novel, ...}} for both data sets
grefer/grefs(picturebook).json  gRefCOCO: one per expression, `ann_id` a list, [-1] for no target
grefer/instances.json           the same as refer/instances.json
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from . import records
from .book import VERSION
from .classes import SPLITS
from .files import read_json, write_bytes, write_json

GREFS = "grefer/grefs(picturebook).json"
REFS = "refer/refs(picturebook).p"
KINDS_FILE = "refer/sentences.json"


def merge_expressions(
    root: Path, seed: int, split: str, references: list[dict[str, Any]], kinds: list[dict[str, Any]]
) -> None:
    """Replace one split's expressions in the shared files; the caller holds the folder's lock."""
    all_references = _other_splits(root / GREFS, split, []) + references
    all_references.sort(key=lambda reference: reference["ref_id"])
    kinds_by_expression = {
        key: row for key, row in _read_kinds(root / KINDS_FILE).items() if row["split"] != split
    }
    kinds_by_expression.update({str(row["sent_id"]): row for row in kinds})
    instances = _all_instances(root, seed)
    write_json(root / "refer/instances.json", instances)
    write_json(root / "grefer/instances.json", instances)
    write_json(root / KINDS_FILE, kinds_by_expression)
    write_bytes(root / REFS, pickle.dumps(single_references(all_references), protocol=2))
    write_json(root / GREFS, all_references)


def _other_splits(path: Path, split: str, empty: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not path.exists():
        return empty
    return [reference for reference in read_json(path) if reference["split"] != split]


def _read_kinds(path: Path) -> dict[str, dict[str, Any]]:
    return read_json(path) if path.exists() else {}


def single_references(references: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return RefCOCO's refs: the expressions with one target, grouped by target."""
    by_thing: dict[int, dict[str, Any]] = {}
    for reference in references:
        if reference["no_target"] or len(reference["ann_id"]) != 1:
            continue
        thing = reference["ann_id"][0]
        entry = by_thing.setdefault(
            thing,
            {
                "sent_ids": [], "file_name": _suffixed(reference["file_name"], thing),
                "ann_id": thing, "ref_id": thing, "image_id": reference["image_id"],
                "split": reference["split"], "sentences": [],
                "category_id": reference["category_id"][0],
            },
        )  # fmt: skip
        entry["sent_ids"] += reference["sent_ids"]
        entry["sentences"] += reference["sentences"]
    return list(by_thing.values())


def _suffixed(file_name: str, thing: int) -> str:
    return f"{file_name.rsplit('_', 1)[0]}_{thing}.jpg"


def _all_instances(root: Path, seed: int) -> dict[str, Any]:
    joined: dict[str, Any] = {
        "info": records.info(seed, VERSION, "all"), "licenses": records.LICENCES, "images": [],
        "annotations": [], "categories": records.thing_categories(),
    }  # fmt: skip
    for split in SPLITS:
        path = root / f"instances_{split}.json"
        if path.exists():
            part = read_json(path)
            joined["images"] += [
                {**i, "file_name": f"{split}/{i['file_name']}"} for i in part["images"]
            ]
            joined["annotations"] += part["annotations"]
    return joined
