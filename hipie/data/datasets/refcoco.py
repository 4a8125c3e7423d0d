"""Reader of referring expressions: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and Ref-ZOM.

RefCOCO (Yu et al., ECCV 2016): `refs(<split by>).p`, a pickle of refs with one `ann_id` each, and
`instances.json` in COCO's format. gRefCOCO (Liu et al., CVPR 2023): `grefs(<split by>).json` with
lists of `ann_id`, where [-1] stands for an expression without a target. Ref-ZOM (Hu et al., ICCV
2023): as RefCOCO with one or several `ann_id`; refs whose `source` is "zero" have no target,
whatever their `ann_id`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hipie.data.datasets.object_reader import ObjectReader
from hipie.data.io.fields import (
    ENTRIES,
    IDENTIFIER,
    TEXT,
    WHOLE_NUMBER,
    WHOLE_NUMBER_OR_LIST,
    EntryFaults,
    images_by_id,
    read_field,
    read_optional,
    require_entry,
    whole_number,
)
from hipie.data.io.gc import pause_garbage_collection
from hipie.data.io.json_file import read_json
from hipie.data.io.paths import missing_images
from hipie.data.io.safe_pickle import read_plain_pickle
from hipie.data.io.validation import DatasetError, shorten
from hipie.logs import get_logger

logger = get_logger(__name__)

REF_FIELDS = {
    "ref_id": WHOLE_NUMBER,
    "image_id": IDENTIFIER,
    "ann_id": WHOLE_NUMBER_OR_LIST,
    "split": TEXT,
}
# Fields of an expression that records keep, beside `sent_id`.
EXPRESSION_FIELDS = ("kind", "held_out")
NO_ANNOTATION = -1
ABOUT_CROWD = "expression about a crowd"
"""Reason in `left_out` of records."""


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

    An expression about crowds (`iscrowd` 1) only has no mask to learn or to compare, and is left
    out with a warning.

    Args:
        refs_file: RefCOCO's `refs(*).p` or gRefCOCO's `grefs(*).json` (or the same as `.p`).
        instances_json: objects in COCO's format; its `file_name` is the path of an image.
        image_root: folder of the images.
        split: "train", "val", "testA", "testB", "test", ...; "testA" and "testB" select the refs
            whose split has the letter A or B after "test", since some files have "testAB";
            "" = all refs.
        text_field: "raw", the text as written by annotators (LAVT, ReLA), or "sent", normalised
            (CARIS); where an expression lacks the field, the other one is used.
        skip_broken: skip invalid refs with a warning instead of raising.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id`, `annotations` (COCO) and
        `expressions`: dicts with `expression`, `ref_id`, `sent_id` and `targets` (positions in
        `annotations`; empty = no target). Sorted by image id. `left_out` has the number of
        expressions that are left out, by reason, if there are any.

    Raises:
        FileNotFoundError, DatasetError: naming the file and its wrong entries (the first ten), or
            the split if it has no expression.
    """
    instances = _Instances(instances_json, image_root)
    records: dict[int | str, dict[str, Any]] = {}
    faults = EntryFaults(refs_file)
    left_out: Counter[str] = Counter()
    for position, entry in enumerate(read_refs(refs_file)):
        try:
            ref = _read_ref(f"{refs_file}: entry {position}", entry, text_field)
            if not split or in_split(ref["split"], split):
                where = f"{refs_file}: ref {ref['ref_id']}"
                _add_ref(records, instances, ref, where, left_out)
        except DatasetError as error:
            faults.add(error)
    if not skip_broken:
        faults.raise_if_any()
    elif faults:
        logger.warning("Skipped in %s: %s", refs_file, faults.summary())
    if not records:
        raise DatasetError(f'{refs_file}: no ref belongs to the split "{split}"')
    _warn_of_crowds(refs_file, split, left_out)
    instances.warn()
    if left_out["expressions"] and not any(record["expressions"] for record in records.values()):
        raise DatasetError(
            f'{refs_file}: all {left_out["expressions"]} expressions of the split "{split}" are '
            "about crowds (iscrowd 1)"
        )
    return [records[key] for key in sorted(records, key=lambda key: (isinstance(key, str), key))]


def _warn_of_crowds(
    refs_file: str | os.PathLike[str], split: str, left_out: Mapping[str, int]
) -> None:
    if left_out.get("expressions"):
        logger.warning(
            '%s: %d expressions of the split "%s" are about crowds (iscrowd 1) and are left out',
            refs_file,
            left_out["expressions"],
            split,
        )
    if left_out.get("targets"):
        logger.warning(
            '%s: %d expressions of the split "%s" are about objects and crowds (iscrowd 1); the '
            "crowds are left out",
            refs_file,
            left_out["targets"],
            split,
        )


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


def existing_splits(refs_file: str | os.PathLike[str], splits: Sequence[str]) -> tuple[str, ...]:
    """Return those of `splits` to which a ref of a file belongs; all if no ref has a valid split.

    Raises:
        FileNotFoundError, DatasetError: see `read_refs`.
    """
    refs = (ref for ref in read_refs(refs_file) if isinstance(ref, dict))
    names = {str(ref.get("split")) for ref in refs}
    return tuple(s for s in splits if any(in_split(name, s) for name in names)) or tuple(splits)


def in_split(ref_split: str, split: str) -> bool:
    """Return whether a ref with the field `split` = `ref_split` belongs to a split."""
    if split in ("testA", "testB"):
        return ref_split.startswith("test") and split[-1] in ref_split[4:]
    return split in ref_split if split == "test" else ref_split == split


def _read_ref(where: str, entry: Any, text_field: str) -> dict[str, Any]:
    """Return a ref with its fields in standard form."""
    require_entry(where, entry)
    ref = {key: read_field(where, entry, key, kind) for key, kind in REF_FIELDS.items()}
    if "sentences" in entry:
        expressions = read_optional(where, entry, "sentences", ENTRIES, [])
    else:
        raise DatasetError(f'{where} has no "sentences"')
    ref["source"] = entry.get("source")
    ref["expressions"] = [
        _read_expression(f'{where}, "sentences" {position}', expression, text_field)
        for position, expression in enumerate(expressions)
    ]
    return ref


def _read_expression(where: str, entry: Any, text_field: str) -> dict[str, Any]:
    """Return an expression with the fields that records keep."""
    require_entry(where, entry)
    texts = {key: _expression_text(where, entry, key) for key in (text_field, "sent", "raw")}
    text = next((text for text in texts.values() if text is not None), None)
    if text is None:
        value = f", not {shorten(entry['sent'])}" if "sent" in entry else ""
        raise DatasetError(f'{where} has no "{text_field}" and no "sent" that is a text{value}')
    fields = {key: entry[key] for key in EXPRESSION_FIELDS if key in entry}
    sent_id = read_optional(where, entry, "sent_id", WHOLE_NUMBER)
    if sent_id is not None:
        fields["sent_id"] = sent_id
    return {"expression": text, **fields}


def _expression_text(where: str, entry: dict[str, Any], key: str) -> str | None:
    """Return a text, which may be a word such as "none"; None where it is absent."""
    value = entry.get(key)
    if isinstance(value, str):
        return value if value.strip() else None
    text: str | None = read_optional(where, entry, key, TEXT)
    return text


def _add_ref(
    records: dict[int | str, dict[str, Any]],
    instances: _Instances,
    ref: dict[str, Any],
    where: str,
    left_out: Counter[str],
) -> None:
    """Add the expressions and objects of a ref to its image's record, unless one is invalid."""
    image = instances.images.get(ref["image_id"])
    if image is None:
        raise DatasetError(
            f"{where} is of image {ref['image_id']}, which {instances.path} does not list"
        )
    annotations = [instances.annotation(number, image, where) for number in _annotation_ids(ref)]
    record = records.setdefault(image["id"], instances.empty_record(image))
    crowds = [annotation for annotation in annotations if annotation["iscrowd"]]
    if crowds and len(crowds) == len(annotations):
        count = len(ref["expressions"])
        left_out["expressions"] += count
        if count:
            reasons = record.setdefault("left_out", {})
            reasons[ABOUT_CROWD] = reasons.get(ABOUT_CROWD, 0) + count
        return
    left_out["targets"] += len(ref["expressions"]) if crowds else 0
    targets = [_position(record, annotation) for annotation in annotations]
    targets = [t for t in targets if not record["annotations"][t]["iscrowd"]]
    for expression in ref["expressions"]:
        record["expressions"].append({**expression, "targets": targets, "ref_id": ref["ref_id"]})


def _annotation_ids(ref: dict[str, Any]) -> list[int]:
    if ref["source"] == "zero":
        return []
    numbers = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
    return [number for number in numbers if number != NO_ANNOTATION]


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
        faults = EntryFaults(path)
        self.path = path
        self.image_root = image_root
        self.images = images_by_id(path, content, faults)
        missing_images(self.images.values(), image_root)  # corrects the spelling of names
        self.annotations: dict[int, Any] = {}
        for position, entry in enumerate(content["annotations"]):
            number = whole_number(entry.get("id")) if isinstance(entry, dict) else None
            try:
                if number is None:
                    where = f"{path}: annotation {position} of the list"
                    number = read_field(where, require_entry(where, entry), "id", WHOLE_NUMBER)
                if number in self.annotations:
                    raise DatasetError(f'{path}: two annotations have the "id" {number}')
            except DatasetError as error:
                faults.add(error)
                continue
            self.annotations[number] = entry
        faults.raise_if_any()
        self._objects = ObjectReader(path, test_intersection=False, strict=True)
        self._checked: dict[int, dict[str, Any]] = {}

    def annotation(self, annotation_id: int, image: dict[str, Any], where: str) -> dict[str, Any]:
        """Check an annotation and return the fields that records keep.

        Raises:
            DatasetError: if it does not exist, is of another image, or is invalid.
        """
        if annotation_id not in self.annotations:
            raise DatasetError(f"{where} names annotation {annotation_id}, which does not exist")
        entry = self.annotations[annotation_id]
        name = f"{self.path}: annotation {annotation_id}"
        image_id = read_field(name, entry, "image_id", IDENTIFIER)
        if image_id != image["id"]:
            raise DatasetError(
                f"{where} names annotation {annotation_id}, which is of image {image_id}"
            )
        if annotation_id not in self._checked:
            category_id = read_optional(name, entry, "category_id", WHOLE_NUMBER)
            checked = self._objects.read(
                name, annotation_id, entry, image["height"], image["width"]
            )
            if checked is None:
                raise DatasetError(f"{name} has no pixel in its image")
            category = {} if category_id is None else {"category_id": category_id}
            self._checked[annotation_id] = {"id": annotation_id, **checked, **category}
        return self._checked[annotation_id]

    def warn(self) -> None:
        """Log what was repaired."""
        self._objects.warn()

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
