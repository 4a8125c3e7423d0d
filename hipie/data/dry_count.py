"""Count of what a test set will be evaluated on, before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hipie.data.broken_images import reading_rules_of
from hipie.data.io.json_file import read_json
from hipie.data.io.reading_rules import read_by
from hipie.data.records import ANNOTATION_KEYS
from hipie.errors import InputError

Record = dict[str, Any]
OBJECT_KEYS = ("segments_info", "annotations")


@dataclass
class DryCount:
    """Numbers of a data set.

    Attributes:
        images: images.
        objects: objects that are evaluated, without crowds; 0 where maps of classes are.
        crowds: crowds, which are neither right nor wrong.
        boxes_only: objects without a mask.
        expressions: referring expressions.
        maps: images with a map of classes or parts.
        left_out: objects that the reader left out, by reason.
        repeated_ids: ids that several images with objects have; the predictions of one would be
            compared with the objects of all.
    """

    images: int = 0
    objects: int = 0
    crowds: int = 0
    boxes_only: int = 0
    expressions: int = 0
    maps: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    repeated_ids: list[Any] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to evaluate."""
        return not (self.objects or self.expressions or self.maps)

    def text(self) -> str:
        """Return the numbers that are not 0, in one line."""
        numbers = [
            ("objects", self.objects),
            ("crowds, which are ignored", self.crowds),
            ("objects with a box only, whose masks are not evaluated", self.boxes_only),
            ("expressions", self.expressions),
            ("maps of classes", self.maps),
            *((f"left out ({reason})", count) for reason, count in self.left_out.most_common()),
        ]
        counted = [f"{name}: {count}" for name, count in numbers if count]
        return "; ".join([f"images: {self.images}", *counted])


def count_records(records: Iterable[Record]) -> DryCount:
    """Count what records are evaluated on.

    Args:
        records: in the checked form, see `hipie.data.records`.
    """
    total = DryCount()
    ids: set[Any] = set()
    for record in records:
        total.images += 1
        total.left_out.update(record.get("left_out", {}))
        total.expressions += len(record.get("expressions", ()))
        key = next((key for key in OBJECT_KEYS if key in record), None)
        if key and "expressions" not in record and "image_id" in record:
            if record["image_id"] in ids:
                total.repeated_ids.append(record["image_id"])
            ids.add(record["image_id"])
        for entry in record[key] if key else ():
            if entry.get("iscrowd"):
                total.crowds += 1
            else:
                total.objects += 1
                total.boxes_only += key == "annotations" and not entry.get("segmentation")
        is_map = any(key.endswith("seg_file_name") or "_part_" in key for key in record)
        total.maps += is_map and key is None
    return total


def require_ground_truth(
    dataset_name: str, count: DryCount, records: Iterable[Record], json_file: str | None
) -> None:
    """Check that a test set has something to evaluate.

    Data sets whose annotations are not public, without any annotation in their records or in their
    file, are only predicted.

    Args:
        dataset_name: for the message.
        count: of its records.
        records: in the checked form.
        json_file: the file of its metadata.

    Raises:
        InputError: naming the data set, and why nothing is left; or an id of two images.
    """
    if count.repeated_ids:
        raise InputError(
            f"the test set {dataset_name} has the image_id {count.repeated_ids[0]!r} more than "
            f"once ({len(count.repeated_ids)} images share the id of another one)"
        )
    if not count.images or not count.is_empty:
        return
    if not any(key in record for record in records for key in ANNOTATION_KEYS):
        return
    if json_file and not count.crowds and not count.left_out:
        with read_by(reading_rules_of(dataset_name)):
            content = read_json(json_file)
        if isinstance(content, dict) and "annotations" not in content:
            return
    raise InputError(
        f"the test set {dataset_name} has no object to evaluate: {count.text()}; correct it, or "
        "take it out of DATASETS.TEST"
    )
