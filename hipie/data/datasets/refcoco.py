"""Reader of referring expressions: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and Ref-ZOM.

RefCOCO (Yu et al., ECCV 2016): `refs(<split by>).p`, a pickle of refs with one `ann_id` each, and
`instances.json` in COCO's format. gRefCOCO (Liu et al., CVPR 2023): `grefs(<split by>).json` with
lists of `ann_id`, where [-1] stands for an expression without a target. Ref-ZOM (Hu et al., ICCV
2023): as RefCOCO with one or several `ann_id`; refs whose `source` is "zero" have no target,
whatever their `ann_id`.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from hipie.data.io.gc import pause_garbage_collection
from hipie.data.io.json_file import read_json
from hipie.data.io.rle import check_segmentation
from hipie.data.io.safe_pickle import read_plain_pickle
from hipie.data.io.validation import (
    FLAG,
    INTEGER,
    INTEGER_OR_LIST,
    LIST,
    NON_EMPTY_STRING,
    STRING,
    XYWH_BOX,
    DatasetError,
    check_entry,
    check_optional,
    images_by_id,
)

logger = logging.getLogger(__name__)

REF_FIELDS = {
    "ref_id": INTEGER,
    "image_id": INTEGER,
    "ann_id": INTEGER_OR_LIST,
    "split": STRING,
    "sentences": LIST,
}
# Fields of an expression that records keep.
EXPRESSION_FIELDS = ("sent_id", "kind", "held_out")
ANNOTATION_FIELDS = ("id", "bbox", "segmentation", "category_id")
MAX_ERRORS_IN_WARNING = 5


@pause_garbage_collection()
def load_refcoco(
    refs_file: str | os.PathLike[str],
    instances_json: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    split: str,
    *,
    text_field: str = "raw",
    skip_broken: bool = False,
) -> list[dict[str, Any]]:
    """Read the expressions of one split, grouped by image.

    Args:
        refs_file: RefCOCO's `refs(*).p` or gRefCOCO's `grefs(*).json` (or the same as `.p`).
        instances_json: objects in COCO's format; its `file_name` is the path of an image.
        image_root: folder of the images.
        split: "train", "val", "testA", "testB", "test", ...; "testA" and "testB" select the refs
            whose split has the letter A or B after "test", since some files have "testAB".
        text_field: "raw", the text as written by annotators (LAVT, ReLA), or "sent", normalised
            (CARIS); where an expression lacks the field, the other one is used.
        skip_broken: skip invalid refs with a warning instead of raising.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id`, `annotations` (COCO) and
        `expressions`: dicts with `expression`, `ref_id`, `sent_id` and `targets` (positions in
        `annotations`; empty = no target). Sorted by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file, the entry and the invalid key.
    """
    instances = _Instances(instances_json, image_root)
    records: dict[int, dict[str, Any]] = {}
    errors: list[str] = []
    for position, ref in enumerate(read_refs(refs_file)):
        try:
            _check_ref(f"{refs_file}: entry {position}", ref, text_field)
            if in_split(ref["split"], split):
                _add_ref(records, instances, ref, f"{refs_file}: ref {ref['ref_id']}", text_field)
        except DatasetError as error:
            if not skip_broken:
                raise
            errors.append(str(error))
    if errors:
        more = len(errors) - MAX_ERRORS_IN_WARNING
        others = f" (and {more} more)" if more > 0 else ""
        logger.warning("Skipped: %s%s", "; ".join(errors[:MAX_ERRORS_IN_WARNING]), others)
    if not records:
        raise DatasetError(f'{refs_file}: no ref belongs to the split "{split}"')
    return [records[key] for key in sorted(records)]


def read_refs(path: str | os.PathLike[str]) -> list[Any]:
    """Read the refs of a pickle or JSON file without checking them.

    Raises:
        FileNotFoundError, DatasetError: if the file has no list of refs.
    """
    is_json = Path(path).suffix == ".json"
    refs = read_json(path) if is_json else read_plain_pickle(path)
    if not isinstance(refs, list):
        raise DatasetError(f"{path}: expected a list of refs, not a {type(refs).__name__}")
    return refs


def in_split(ref_split: str, split: str) -> bool:
    """Return whether a ref with the field `split` = `ref_split` belongs to a split."""
    if split in ("testA", "testB"):
        return ref_split.startswith("test") and split[-1] in ref_split[4:]
    return split in ref_split if split == "test" else ref_split == split


def _check_ref(where: str, ref: Any, text_field: str) -> None:
    check_entry(where, ref, REF_FIELDS)
    for position, entry in enumerate(ref["sentences"]):
        _check_expression(f'{where}, "sentences" {position}', entry, text_field)


def _check_expression(where: str, entry: Any, text_field: str) -> None:
    if _is_complete(entry, text_field):
        return
    check_entry(where, entry, {})
    if text_field not in entry and "sent" not in entry:
        raise DatasetError(f'{where} has no "sent"')
    check_optional(where, entry, {"raw": STRING, "sent": STRING, "sent_id": INTEGER})
    check_entry(where, {"sent": _text(entry, text_field)}, {"sent": NON_EMPTY_STRING})


def _is_complete(entry: Any, text_field: str) -> bool:
    """Return whether an expression has all fields: a fast test that nearly all entries pass."""
    return (
        type(entry) is dict
        and type(entry.get("raw")) is str
        and type(entry.get("sent")) is str
        and INTEGER.test(entry.get("sent_id"))
        and bool(entry[text_field].strip())
    )


def _text(entry: dict[str, Any], text_field: str) -> str:
    return entry.get(text_field) or entry.get("sent") or entry.get("raw", "")


def _add_ref(
    records: dict[int, dict[str, Any]],
    instances: _Instances,
    ref: dict[str, Any],
    where: str,
    text_field: str,
) -> None:
    """Add the expressions and objects of a ref to its image's record, unless one is invalid."""
    image = instances.images.get(ref["image_id"])
    if image is None:
        raise DatasetError(
            f"{where} is of image {ref['image_id']}, which {instances.path} does not list"
        )
    annotations = [instances.annotation(number, image, where) for number in _annotation_ids(ref)]
    record = records.setdefault(image["id"], instances.empty_record(image))
    targets = [_position(record, annotation) for annotation in annotations]
    targets = [t for t in targets if not record["annotations"][t]["iscrowd"]]
    for entry in ref["sentences"]:
        record["expressions"].append(
            {
                "expression": _text(entry, text_field),
                "targets": targets,
                "ref_id": ref["ref_id"],
                **{key: entry[key] for key in EXPRESSION_FIELDS if key in entry},
            }
        )


def _annotation_ids(ref: dict[str, Any]) -> list[int]:
    if ref.get("source") == "zero":
        return []
    numbers = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [number for number in numbers if number != -1]


def _position(record: dict[str, Any], annotation: dict[str, Any]) -> int:
    """Return the position of an annotation in the record; it is appended if it is new."""
    for position, existing in enumerate(record["annotations"]):
        if existing["id"] == annotation["id"]:
            return position
    record["annotations"].append(annotation)
    return len(record["annotations"]) - 1


class _Instances:
    """Images and annotations of an `instances.json`; annotations are checked when they are used."""

    def __init__(self, path: str | os.PathLike[str], image_root: str | os.PathLike[str]) -> None:
        content = read_json(path, ("images", "annotations"))
        self.path = path
        self.image_root = image_root
        self.images = images_by_id(path, content)
        self.annotations: dict[int, dict[str, Any]] = {}
        for position, entry in enumerate(content["annotations"]):
            if not isinstance(entry, dict) or type(entry.get("id")) is not int:
                check_entry(f"{path}: annotation {position} of the list", entry, {"id": INTEGER})
            if entry["id"] in self.annotations:
                raise DatasetError(f'{path}: two annotations have the "id" {entry["id"]}')
            self.annotations[entry["id"]] = entry

    def annotation(self, annotation_id: int, image: dict[str, Any], where: str) -> dict[str, Any]:
        """Check an annotation and return the fields that records keep.

        Raises:
            DatasetError: if it does not exist, is of another image, or is invalid.
        """
        if annotation_id not in self.annotations:
            raise DatasetError(f"{where} names annotation {annotation_id}, which does not exist")
        entry = self.annotations[annotation_id]
        name = f"{self.path}: annotation {annotation_id}"
        check_entry(name, entry, {"image_id": INTEGER})
        if entry["image_id"] != image["id"]:
            raise DatasetError(
                f"{where} names annotation {annotation_id}, which is of image {entry['image_id']}"
            )
        check_optional(name, entry, {"bbox": XYWH_BOX, "category_id": INTEGER, "iscrowd": FLAG})
        if "segmentation" not in entry:
            raise DatasetError(f'{name} has no "segmentation"')
        check_segmentation(name, entry["segmentation"], image["height"], image["width"])
        fields = {key: entry[key] for key in ANNOTATION_FIELDS if key in entry}
        return {**fields, "iscrowd": int(entry.get("iscrowd", 0))}

    def empty_record(self, image: dict[str, Any]) -> dict[str, Any]:
        """Return the record of an image without expressions."""
        return {
            "file_name": os.path.join(self.image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
            "expressions": [],
        }
