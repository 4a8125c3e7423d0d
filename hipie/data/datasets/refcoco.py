"""Reading expressions with their objects: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and Ref-ZOM.

RefCOCO (Yu et al., ECCV 2016): `refs(<split by>).p`, a pickle of refs with one `ann_id` each, and
`instances.json` in COCO's format. gRefCOCO (Liu et al., CVPR 2023): `grefs(<split by>).json` with
a list of `ann_id`, where [-1] says that nothing in the image is meant. Ref-ZOM (Hu et al., ICCV
2023): as RefCOCO, one or several `ann_id`, and a `source` that is "zero" where nothing is meant
(whatever the `ann_id` says then).
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

EXPRESSION_NOTES = ("sent_id", "kind", "held_out")
REF = {
    "ref_id": INTEGER,
    "image_id": INTEGER,
    "ann_id": INTEGER_OR_LIST,
    "split": STRING,
    "sentences": LIST,
}
NAMED_IN_WARNING = 5


@pause_garbage_collection()
def load_refcoco(
    refs_file: str | os.PathLike[str],
    instances_json: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    split: str,
    *,
    words: str = "raw",
    skip_broken: bool = False,
) -> list[dict[str, Any]]:
    """Read the expressions of one split, gathered by image.

    Args:
        refs_file: RefCOCO's `refs(*).p` or gRefCOCO's `grefs(*).json` (or the same as `.p`).
        instances_json: the objects, in COCO's format. Images are found by its `file_name`.
        image_root: the images.
        split: "train", "val", "testA", "testB", "test", ...; "testA" and "testB" take the refs
            whose split has the letter A or B after "test", as some files write "testAB".
        words: "raw", as people wrote them (LAVT, ReLA), or "sent", cleaned (CARIS); where an
            expression has no such words, the other.
        skip_broken: leave out refs that are wrong, with a warning, instead of raising.

    Returns:
        records with `file_name`, `height`, `width`, `image_id`, `annotations` (COCO) and
        `expressions`: dicts with `expression`, `ref_id`, `sent_id` and `targets` (positions in
        `annotations`; empty = nothing is meant). By image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file, the entry and the key that is wrong.
    """
    objects = _Objects(instances_json, image_root)
    records: dict[int, dict[str, Any]] = {}
    broken: list[str] = []
    for position, ref in enumerate(read_refs(refs_file)):
        try:
            _check_ref(f"{refs_file}: entry {position}", ref, words)
            if in_split(ref["split"], split):
                _add(records, objects, ref, f"{refs_file}: ref {ref['ref_id']}", words)
        except DatasetError as error:
            if not skip_broken:
                raise
            broken.append(str(error))
    if broken:
        more = len(broken) - NAMED_IN_WARNING
        others = f" (and {more} more)" if more > 0 else ""
        logger.warning("Left out: %s%s", "; ".join(broken[:NAMED_IN_WARNING]), others)
    if not records:
        raise DatasetError(f'{refs_file}: no ref belongs to the split "{split}"')
    return [records[key] for key in sorted(records)]


def read_refs(path: str | os.PathLike[str]) -> list[Any]:
    """The refs of a pickle or a JSON file, unchecked.

    Raises:
        FileNotFoundError, DatasetError: if there is no list of refs in the file.
    """
    is_json = Path(path).suffix == ".json"
    refs = read_json(path) if is_json else read_plain_pickle(path)
    if not isinstance(refs, list):
        raise DatasetError(f"{path}: expected a list of refs, found a {type(refs).__name__}")
    return refs


def in_split(found: str, wanted: str) -> bool:
    """Whether a ref of the split `found` belongs to the split `wanted`."""
    if wanted in ("testA", "testB"):
        return found.startswith("test") and wanted[-1] in found[4:]
    return wanted in found if wanted == "test" else found == wanted


def _check_ref(where: str, ref: Any, words: str) -> None:
    check_entry(where, ref, REF)
    for place, expression in enumerate(ref["sentences"]):
        if _is_sound(expression, words):
            continue
        part = f'{where}, "expressions" {place}'
        check_entry(part, expression, {})
        if words not in expression and "sent" not in expression:
            raise DatasetError(f'{part} has no "sent"')
        check_optional(part, expression, {"raw": STRING, "sent": STRING, "sent_id": INTEGER})
        check_entry(part, {"sent": _words(expression, words)}, {"sent": NON_EMPTY_STRING})


def _is_sound(expression: Any, words: str) -> bool:
    """Whether an expression is as nearly all are, told quickly."""
    return (
        type(expression) is dict
        and type(expression.get("raw")) is str
        and type(expression.get("sent")) is str
        and INTEGER.test(expression.get("sent_id"))
        and bool(expression[words].strip())
    )


def _words(expression: dict[str, Any], words: str) -> str:
    """The words asked for, or those there are."""
    return expression.get(words) or expression.get("sent") or expression.get("raw", "")


def _add(
    records: dict[int, dict[str, Any]],
    objects: _Objects,
    ref: dict[str, Any],
    where: str,
    words: str,
) -> None:
    """Add a ref's expressions and objects to its image's record; nothing if the ref is wrong."""
    image = objects.images.get(ref["image_id"])
    if image is None:
        raise DatasetError(
            f"{where} is of image {ref['image_id']}, which {objects.path} does not list"
        )
    found = [objects.annotation(number, image, where) for number in _annotation_ids(ref)]
    record = records.setdefault(image["id"], objects.empty_record(image))
    targets = [_place(record, one) for one in found]
    targets = [t for t in targets if not record["annotations"][t]["iscrowd"]]
    for expression in ref["sentences"]:
        notes = {key: expression[key] for key in EXPRESSION_NOTES if key in expression}
        said = {
            "expression": _words(expression, words),
            "targets": targets,
            "ref_id": ref["ref_id"],
        }
        record["expressions"].append({**said, **notes})


def _annotation_ids(ref: dict[str, Any]) -> list[int]:
    if ref.get("source") == "zero":
        return []
    numbers = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [number for number in numbers if number != -1]


def _place(record: dict[str, Any], annotation: dict[str, Any]) -> int:
    """Position of an annotation in the record, where it is put if it is not there yet."""
    for position, one in enumerate(record["annotations"]):
        if one["id"] == annotation["id"]:
            return position
    record["annotations"].append(annotation)
    return len(record["annotations"]) - 1


class _Objects:
    """The images and annotations of an `instances.json`; annotations are checked when used."""

    def __init__(self, path: str | os.PathLike[str], image_root: str | os.PathLike[str]) -> None:
        content = read_json(path, ("images", "annotations"))
        self.path = path
        self.image_root = image_root
        self.images = images_by_id(path, content)
        self.annotations: dict[int, dict[str, Any]] = {}
        for position, one in enumerate(content["annotations"]):
            if not isinstance(one, dict) or type(one.get("id")) is not int:
                check_entry(f"{path}: annotation {position} of the list", one, {"id": INTEGER})
            if one["id"] in self.annotations:
                raise DatasetError(f'{path}: two annotations have the "id" {one["id"]}')
            self.annotations[one["id"]] = one

    def annotation(self, number: int, image: dict[str, Any], where: str) -> dict[str, Any]:
        """What a record keeps of an annotation.

        Raises:
            DatasetError: if it is not there, of another image, or wrong in itself.
        """
        if number not in self.annotations:
            raise DatasetError(f"{where} names annotation {number}, which does not exist")
        found = self.annotations[number]
        fault = f"{self.path}: annotation {number}"
        check_entry(fault, found, {"image_id": INTEGER})
        if found["image_id"] != image["id"]:
            raise DatasetError(
                f"{where} names annotation {number}, which is of image {found['image_id']}"
            )
        check_optional(fault, found, {"bbox": XYWH_BOX, "category_id": INTEGER, "iscrowd": FLAG})
        if "segmentation" not in found:
            raise DatasetError(f'{fault} has no "segmentation"')
        check_segmentation(fault, found["segmentation"], image["height"], image["width"])
        kept = {k: found[k] for k in ("id", "bbox", "segmentation", "category_id") if k in found}
        return {**kept, "iscrowd": int(found.get("iscrowd", 0))}

    def empty_record(self, image: dict[str, Any]) -> dict[str, Any]:
        """An image without expressions yet."""
        return {
            "file_name": os.path.join(self.image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": [],
            "expressions": [],
        }
