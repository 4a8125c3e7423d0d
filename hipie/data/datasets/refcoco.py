"""Reading sentences with their objects: RefCOCO, RefCOCO+, RefCOCOg, and gRefCOCO.

RefCOCO (Yu et al., ECCV 2016): `refs(<split by>).p`, a pickle of refs with one `ann_id` each, and
`instances.json` in COCO's format. gRefCOCO (Liu et al., CVPR 2023): `grefs(<split by>).json` with
a list of `ann_id`, where [-1] says that nothing in the picture is meant.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hipie.data.datasets.json_file import DatasetError, images_by_id, read_json
from hipie.data.datasets.refs_pickle import read_plain_pickle

SENTENCE_NOTES = ("sent_id", "kind", "held_out")


def load_refcoco(
    refs_file: str | os.PathLike[str],
    instances_json: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    split: str,
) -> list[dict[str, Any]]:
    """Read the sentences of one split, gathered by picture.

    Args:
        refs_file: RefCOCO's `refs(*).p` or gRefCOCO's `grefs(*).json` (or the same as `.p`).
        instances_json: the objects, in COCO's format. Pictures are found by its `file_name`.
        image_root: the pictures.
        split: "train", "val", "testA", "testB", "test", ...; "testA" and "testB" take the refs
            whose split has the letter A or B after "test", as some files write "testAB".

    Returns:
        records with `file_name`, `height`, `width`, `image_id`, `annotations` (COCO) and
        `sentences`: dicts with `sentence` (as written by people), `ref_id`, `sent_id` and
        `targets` (positions in `annotations`; empty = nothing is meant). By image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file and the ref that is wrong.
    """
    content = read_json(instances_json, ("images", "annotations"))
    images = images_by_id(instances_json, content)
    annotations = {one["id"]: one for one in content["annotations"]}
    records: dict[int, dict[str, Any]] = {}
    for ref in _read_refs(refs_file):
        if not _in_split(str(ref["split"]), split):
            continue
        image = images.get(ref["image_id"])
        if image is None:
            raise DatasetError(
                f"{refs_file}: ref {ref['ref_id']} is of image {ref['image_id']}, which "
                f"{instances_json} does not list"
            )
        record = records.setdefault(image["id"], _empty_record(image, image_root))
        targets = [
            _place(record, annotations, number, f"{refs_file}: ref {ref['ref_id']}")
            for number in _annotation_ids(ref)
        ]
        targets = [t for t in targets if not record["annotations"][t].get("iscrowd", 0)]
        for sentence in ref["sentences"]:
            notes = {key: sentence[key] for key in SENTENCE_NOTES if key in sentence}
            words = sentence.get("raw") or sentence["sent"]
            record["sentences"].append(
                {"sentence": words, "targets": targets, "ref_id": ref["ref_id"], **notes}
            )
    if not records:
        raise DatasetError(f'{refs_file}: no ref belongs to the split "{split}"')
    return [records[key] for key in sorted(records)]


def _read_refs(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    is_json = Path(path).suffix == ".json"
    refs = read_json(path) if is_json else read_plain_pickle(path)
    if not isinstance(refs, list):
        raise DatasetError(f"{path}: expected a list of refs, found a {type(refs).__name__}")
    for position, ref in enumerate(refs):
        for key in ("ref_id", "image_id", "ann_id", "split", "sentences"):
            if not isinstance(ref, dict) or key not in ref:
                raise DatasetError(f'{path}: entry {position} has no "{key}"')
    return refs


def _in_split(found: str, wanted: str) -> bool:
    if wanted in ("testA", "testB"):
        return found.startswith("test") and wanted[-1] in found[4:]
    return wanted in found if wanted == "test" else found == wanted


def _annotation_ids(ref: dict[str, Any]) -> list[int]:
    numbers = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [number for number in numbers if number != -1]


def _empty_record(image: dict[str, Any], image_root: str | os.PathLike[str]) -> dict[str, Any]:
    return {
        "file_name": os.path.join(image_root, image["file_name"]),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "annotations": [],
        "sentences": [],
    }


def _place(
    record: dict[str, Any], annotations: dict[int, dict[str, Any]], number: int, where: str
) -> int:
    """Position of an annotation in the record, where it is put if it is not there yet."""
    for position, annotation in enumerate(record["annotations"]):
        if annotation["id"] == number:
            return position
    if number not in annotations:
        raise DatasetError(f"{where} names annotation {number}, which does not exist")
    found = annotations[number]
    if found["image_id"] != record["image_id"]:
        raise DatasetError(
            f"{where} names annotation {number}, which is of image {found['image_id']}"
        )
    kept = {k: found[k] for k in ("id", "bbox", "segmentation", "category_id") if k in found}
    record["annotations"].append({**kept, "iscrowd": found.get("iscrowd", 0)})
    return len(record["annotations"]) - 1
