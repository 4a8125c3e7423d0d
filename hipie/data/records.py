"""Records of Detectron2's catalog in one checked form, whatever function returned them.

Readers of this package, Detectron2's own (`register_coco_instances`, `load_sem_seg`, panoptic sets)
and functions of the user return dicts that differ in what they leave out and in the form of their
boxes. Dataset mappers, evaluators and the programs that check and draw data sets get them from here
only.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode

from hipie.data.broken_images import reading_rules_of, skips_broken, without_broken
from hipie.data.datasets.object_reader import CheckedRecords, ObjectReader
from hipie.data.expressions import without_wordless
from hipie.data.image_io import read_image_size
from hipie.data.io.fields import (
    FLAG,
    WHOLE_NUMBER,
    EntryFaults,
    finite_number,
    is_absent,
    read_field,
    read_optional,
    require_entry,
    whole_number,
)
from hipie.data.io.missing_images import accept_missing_images
from hipie.data.io.reading_rules import read_by
from hipie.data.io.validation import DatasetError, check_image_size, shorten
from hipie.data.label_values import PANOPTIC_VOID
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError

Record = dict[str, Any]
ANNOTATION_KEYS = (
    "annotations",
    "segments_info",
    "pan_seg_file_name",
    "sem_seg_file_name",
    "part_seg_file_name",
    "pan_part_file_name",
)
MAX_SEGMENT_ID = 2**24 - 1


def load_records(dataset_name: str) -> list[Record]:
    """Read a registered data set in the checked form.

    With `set_skip_broken`, broken images and expressions without a word are left out.

    Args:
        dataset_name: a name in Detectron2's catalogs.

    Raises:
        HipieError, OSError, ValueError: of the reader.
        InputError: if an expression has no word, see `without_wordless`.
        DatasetError: see `check_records`.
    """
    skip = skips_broken(dataset_name)
    with accept_missing_images(skip), read_by(reading_rules_of(dataset_name)):
        read = DatasetCatalog.get(dataset_name)
    checked = check_records(
        dataset_name,
        without_broken(dataset_name, read),
        MetadataCatalog.get(dataset_name),
        skip_broken=skip,
        objects_are_checked=isinstance(read, CheckedRecords),
    )
    return without_wordless(dataset_name, checked, skip)


def sample_evenly(records: Sequence[Any], count: int | None) -> list[Any]:
    """Return at most `count` evenly spaced records, the first and the last included; None: all."""
    if count is None or count >= len(records):
        return list(records)
    return [records[i] for i in np.linspace(0, len(records) - 1, count).round().astype(int)]


def check_records(
    dataset_name: str,
    records: Iterable[Mapping[str, Any]],
    metadata: Metadata,
    *,
    skip_broken: bool = False,
    objects_are_checked: bool = False,
) -> list[Record]:
    """Return records in the checked form; those given are not changed.

    What is missing is derived: `image_id` from the file's name, `height` and `width` from the image
    (of records with an annotation), `iscrowd` 0, `isthing` from the vocabulary. Boxes of any
    `bbox_mode` become XYWH in pixels (the mode of boxes without one). Objects are repaired or left
    out as those of annotation files (`ObjectReader`); `left_out` counts the latter by reason.
    Annotations of expressions stay as they are, since targets are positions among them.

    Args:
        dataset_name: for messages.
        records: dicts in Detectron2's form.
        metadata: metadata of the data set; names of classes limit the class indices.
        skip_broken: records whose image cannot be read, and that have no size, stay as they are.
        objects_are_checked: the annotations have passed an `ObjectReader`.

    Raises:
        DatasetError: naming the data set and its wrong entries: the image, the field and the value.
    """
    place = f"the data set {dataset_name}"
    kinds = _class_kinds(metadata)
    faults = EntryFaults(place)
    objects = ObjectReader(place, test_intersection=False)
    image_ids = _ImageIds()
    checked = []
    for position, record in enumerate(records):
        try:
            entry = dict(require_entry(f"{place}: record {position}", record))
            if "file_name" in entry:
                _complete(place, entry, image_ids, skip_broken)
        except DatasetError as error:
            faults.add(error)
            continue
        where = f"{place}: {entry.get('file_name', f'record {position}')}"
        has_objects = "expressions" not in entry and not is_absent(entry.get("annotations"))
        if has_objects and "height" in entry and not objects_are_checked:
            _check_annotations(where, entry, kinds, objects, faults)
        if not is_absent(entry.get("segments_info")):
            _check_segments(where, entry, kinds, faults)
        checked.append(entry)
    faults.raise_if_any()
    objects.warn()
    image_ids.assign(checked)
    return checked


def complete_record(record: Mapping[str, Any]) -> Record:
    """Return a record with `height` and `width`, from the image where it has none.

    Raises:
        FileNotFoundError, ImageError: of the image.
    """
    entry = dict(record)
    if is_absent(entry.get("height")) or is_absent(entry.get("width")):
        entry["height"], entry["width"] = read_image_size(entry["file_name"])
    return entry


def xywh_box(where: str, annotation: Mapping[str, Any], height: int, width: int) -> Any:
    """Return the box of an annotation as XYWH in pixels; as it is if it is not four numbers.

    Args:
        where: the annotation, for the message.
        annotation: has `bbox` and, if that is not XYWH in pixels, `bbox_mode`.
        height: height of the image, pixels.
        width: width of the image, pixels.

    Raises:
        DatasetError: if the mode is unknown.
    """
    box, mode = annotation.get("bbox"), _box_mode(where, annotation.get("bbox_mode"))
    if isinstance(box, np.ndarray):
        box = box.tolist()
    sides = [finite_number(side) for side in box] if isinstance(box, list | tuple) else []
    if mode == BoxMode.XYWH_ABS or None in sides or len(sides) != (5 if _is_rotated(mode) else 4):
        return box
    values = np.array(sides, dtype=np.float64)
    if mode in (BoxMode.XYXY_REL, BoxMode.XYWH_REL):
        values *= (width, height, width, height)
        mode = BoxMode.XYXY_ABS if mode == BoxMode.XYXY_REL else BoxMode.XYWH_ABS
    if _is_rotated(mode):
        values = np.asarray(BoxMode.convert(values[None], mode, BoxMode.XYXY_ABS))[0]
        mode = BoxMode.XYXY_ABS
    if mode == BoxMode.XYXY_ABS:
        values[2:] -= values[:2]
    converted: list[float] = values.tolist()
    return converted


class _ImageIds:
    """Ids of images that have none: the stem of the file's name, or all of it if it is shared."""

    def __init__(self) -> None:
        self._stems: Counter[Any] = Counter()

    def add(self, record: Record) -> None:
        stem = Path(record["file_name"]).stem
        self._stems[record.get("image_id", stem)] += 1

    def assign(self, records: list[Record]) -> None:
        for record in records:
            if "file_name" in record and "image_id" not in record:
                stem = Path(record["file_name"]).stem
                record["image_id"] = stem if self._stems[stem] == 1 else record["file_name"]


def _complete(place: str, record: Record, image_ids: _ImageIds, skip_broken: bool) -> None:
    """Complete the fields of an image, in place."""
    if not isinstance(record["file_name"], str | os.PathLike) or not str(record["file_name"]):
        raise DatasetError(
            f'{place}: "file_name" must be a path, not {shorten(record["file_name"])}'
        )
    record["file_name"] = os.fspath(record["file_name"])
    where = f"{place}: {record['file_name']}"
    if is_absent(record.get("image_id")):
        record.pop("image_id", None)
    elif isinstance(record["image_id"], np.generic):
        record["image_id"] = record["image_id"].item()
    image_ids.add(record)
    if any(key in record for key in ANNOTATION_KEYS):
        try:
            record.update(complete_record(record))
        except (OSError, ValueError) as error:
            if skip_broken:
                return
            raise DatasetError(f"{place}: {error}") from error
    for key in ("height", "width"):
        if not is_absent(record.get(key)):
            side = whole_number(record[key])
            record[key] = record[key] if side is None else side
    if "height" in record and "width" in record:
        check_image_size(where, record["height"], record["width"])


def _check_annotations(
    where: str,
    record: Record,
    kinds: tuple[str, ...],
    objects: ObjectReader,
    faults: EntryFaults,
) -> None:
    """Replace the annotations of a record by checked ones."""
    height, width = record["height"], record["width"]
    left_out: Counter[str] = Counter(record.get("left_out", {}))
    annotations = []
    for position, annotation in enumerate(record["annotations"]):
        place = f"{where}: annotation {position}"
        try:
            entry = dict(require_entry(place, annotation))
            entry["category_id"] = _class_index(place, entry, kinds)
            entry["bbox"] = xywh_box(place, entry, height, width)
            entry["segmentation"] = _plain_segmentation(entry.get("segmentation"))
            name = entry.get("id", f"{position} of {record['file_name']}")
            checked = objects.read(place, name, entry, height, width)
        except DatasetError as error:
            faults.add(error)
            continue
        if checked is None:
            left_out[objects.reason] += 1
            continue
        del entry["segmentation"]
        annotations.append({**entry, **checked})
    record["annotations"] = annotations
    if left_out:
        record["left_out"] = dict(left_out)


def _check_segments(
    where: str, record: Record, kinds: tuple[str, ...], faults: EntryFaults
) -> None:
    """Replace the segments of a record by checked ones."""
    segments = []
    ids: set[int] = set()
    for position, segment in enumerate(record["segments_info"]):
        place = f"{where}: segment {position}"
        try:
            entry = dict(require_entry(place, segment))
            number = read_field(place, entry, "id", WHOLE_NUMBER)
            if not PANOPTIC_VOID < number <= MAX_SEGMENT_ID:
                raise DatasetError(
                    f'{place}: "id" must be from 1 to {MAX_SEGMENT_ID} (0 are the pixels without '
                    f"a segment), not {number}"
                )
            if number in ids:
                raise DatasetError(f"{place}: another segment of the image has the id {number}")
            ids.add(number)
            index = _class_index(place, entry, kinds)
            crowd = read_optional(place, entry, "iscrowd", FLAG, 0)
        except DatasetError as error:
            faults.add(error)
            continue
        is_thing = {"isthing": kinds[index] == "thing"} if kinds else {}
        segments.append({**is_thing, **entry, "id": number, "category_id": index, "iscrowd": crowd})
    record["segments_info"] = segments


def _class_kinds(metadata: Metadata) -> tuple[str, ...]:
    """Return the kind of every class index; () for data sets without names of classes."""
    try:
        return Vocabulary.from_metadata(metadata).kinds
    except VocabularyError:
        return ()


def _class_index(where: str, entry: dict[str, Any], kinds: tuple[str, ...]) -> int:
    index: int = read_field(where, entry, "category_id", WHOLE_NUMBER)
    if index < 0 or (kinds and index >= len(kinds)):
        raise DatasetError(
            f'{where}: "category_id" must be a class index from 0 to {len(kinds) - 1}, as '
            f"Detectron2's records have them, not {index}"
        )
    return index


def _box_mode(where: str, value: Any) -> BoxMode:
    if is_absent(value):
        return BoxMode.XYWH_ABS
    if isinstance(value, str):
        name = value.rpartition(".")[2].upper()
        if name in BoxMode.__members__:
            return BoxMode[name]
    number = whole_number(value)
    if number is not None and number in BoxMode.__members__.values():
        return BoxMode(number)
    known = ", ".join(BoxMode.__members__)
    raise DatasetError(f'{where}: "bbox_mode" must be one of {known}, not {shorten(value)}')


def _is_rotated(mode: BoxMode) -> bool:
    return mode == BoxMode.XYWHA_ABS


def _plain_segmentation(value: Any) -> Any:
    """Return polygons of arrays as lists, and a mask (an array [H, W]) as an RLE."""
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype in (bool, np.uint8):
        return dict(mask_util.encode(np.asfortranarray(value != 0, dtype=np.uint8)))
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [one.tolist() if isinstance(one, np.ndarray) else one for one in value]
    return value
