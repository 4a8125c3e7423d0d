"""Reader of COCO panoptic files: a JSON of segments and a folder of PNGs.

Kirillov et al., "Panoptic Segmentation", CVPR 2019.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hipie.data.annotation_maps import panoptic_ids, read_panoptic_map, require_segments
from hipie.data.image_io import ImageError
from hipie.data.io.fields import (
    ENTRIES,
    FLAG,
    IDENTIFIER,
    TEXT,
    WHOLE_NUMBER,
    EntryFaults,
    finite_number,
    images_by_id,
    read_field,
    read_optional,
    require_entry,
    require_image,
    require_inside,
)
from hipie.data.io.json_file import read_json
from hipie.data.io.missing_images import missing_images_accepted
from hipie.data.io.paths import require_image_files
from hipie.data.io.validation import DatasetError, shorten

MAX_SEGMENT_ID = 2**24
MAX_MAPS_READ = 500
"""Maps whose pixels are counted when a data set is read; of more, this many at equal distances."""
UNUSED_FIELDS = ("area", "bbox")

Record = dict[str, Any]


class UnknownCategoryError(DatasetError):
    """A segment of a category that the file or the vocabulary does not have."""


def load_coco_panoptic(
    json_file: str | os.PathLike[str],
    panoptic_root: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    contiguous_ids: dict[int, int],
    sem_seg_root: str | os.PathLike[str] | None = None,
    *,
    overlapping_areas: bool = False,
) -> list[Record]:
    """Read a panoptic data set as Detectron2's records.

    The pixels of up to 500 maps, evenly spaced, are counted: a segment whose `area` is another
    number is an error. Segments of the other maps have no `area`, which nothing here reads:
    training and evaluation count pixels.

    Args:
        json_file: COCO panoptic JSON.
        panoptic_root: folder of the PNGs.
        image_root: folder of the images.
        contiguous_ids: category id -> position in the vocabulary, of things and stuff.
        sem_seg_root: folder of label maps of positions in the vocabulary; adds
            `sem_seg_file_name` to the records.
        overlapping_areas: an `area` may be larger than the segment's pixels and is kept, as in the
            published files of ADE20K, where it is that before objects were pasted over stuff.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id`, `pan_seg_file_name`,
        `segments_info` (`id`, contiguous `category_id`, `isthing`, `iscrowd`, and where the map
        was read `area` in pixels and `bbox` xywh), sorted by image id.

    Raises:
        FileNotFoundError, DatasetError: naming the file and its wrong entries.
    """
    content = read_json(json_file, ("images", "annotations", "categories"))
    faults = EntryFaults(json_file)
    images = images_by_id(json_file, content, faults)
    require_image_files(json_file, images, image_root, faults)
    is_thing = _thing_flags(json_file, content["categories"], faults)
    known = {number: contiguous_ids[number] for number in is_thing if number in contiguous_ids}
    records: dict[int | str, Record] = {}
    areas: dict[int | str, dict[int, Any]] = {}
    for position, entry in enumerate(content["annotations"]):
        where = f"{json_file}: annotation {position} of the list"
        try:
            require_entry(where, entry)
            image_id = read_field(where, entry, "image_id", IDENTIFIER)
            entries = read_field(where, entry, "segments_info", ENTRIES)
            image = require_image(where, images, image_id, faults)
            if image is None:
                continue
            map_name = read_optional(where, entry, "file_name", TEXT)
            if map_name is not None:
                require_inside(where, "file_name", map_name)
            if image_id in records:
                raise DatasetError(f"{json_file}: image {image_id} has two annotations")
        except DatasetError as error:
            faults.add(error)
            continue
        segments = _read_segments(json_file, image_id, entries, known, is_thing, faults)
        areas[image_id] = {segment["id"]: segment.pop("area", None) for segment in segments}
        records[image_id] = {
            "file_name": os.path.join(image_root, image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image_id,
            "pan_seg_file_name": map_name or PurePosixPath(image["file_name"]).stem + ".png",
            "segments_info": segments,
        }
    ordered = [records[key] for key in images if key in records]
    _complete_paths(json_file, ordered, panoptic_root, sem_seg_root, faults)
    if ordered and not faults:
        count = min(len(ordered), MAX_MAPS_READ)
        for index in np.linspace(0, len(ordered) - 1, count).round().astype(int):
            record = ordered[index]
            try:
                _count_pixels(
                    json_file, record, areas[record["image_id"]], overlapping_areas, faults
                )
            except ImageError as error:
                if not missing_images_accepted():
                    faults.add(DatasetError(str(error)))
    faults.raise_if_any()
    return ordered


def _thing_flags(
    json_file: str | os.PathLike[str], categories: list[Any], faults: EntryFaults
) -> dict[int, bool]:
    """Return category id -> whether it is a thing."""
    flags = {}
    for position, category in enumerate(categories):
        where = f"{json_file}: category {position} of the list"
        try:
            number = read_field(where, require_entry(where, category), "id", WHOLE_NUMBER)
            flags[number] = bool(read_optional(where, category, "isthing", FLAG, 1))
        except DatasetError as error:
            faults.add(error)
            faults.unreadable_categories = True
    return flags


def _read_segments(
    json_file: str | os.PathLike[str],
    image_id: int | str,
    entries: list[Any],
    contiguous_ids: Mapping[int, int],
    is_thing: Mapping[int, bool],
    faults: EntryFaults,
) -> list[dict[str, Any]]:
    """Return the valid segments of an image, with `area` as in the file."""
    segments: dict[int, dict[str, Any]] = {}
    for entry in entries:
        try:
            segment = _read_segment(json_file, image_id, entry, contiguous_ids, is_thing)
            if segment["id"] in segments:
                raise DatasetError(
                    f'{json_file}: image {image_id} has two segments with the "id" {segment["id"]}'
                )
        except UnknownCategoryError as error:
            if not faults.unreadable_categories:
                faults.add(error)
            continue
        except DatasetError as error:
            faults.add(error)
            continue
        segments[segment["id"]] = segment
    return list(segments.values())


def _read_segment(
    json_file: str | os.PathLike[str],
    image_id: int | str,
    entry: Any,
    contiguous_ids: Mapping[int, int],
    is_thing: Mapping[int, bool],
) -> dict[str, Any]:
    where = f"{json_file}: a segment of image {image_id}"
    number = read_field(where, require_entry(where, entry), "id", WHOLE_NUMBER)
    where = f"{json_file}: segment {number} of image {image_id}"
    category = read_field(where, entry, "category_id", WHOLE_NUMBER)
    crowd = read_optional(where, entry, "iscrowd", FLAG, 0)
    if number == 0:
        raise DatasetError(f'{where}: "id" is 0, which stands for pixels without a segment')
    if not 0 < number < MAX_SEGMENT_ID:
        raise DatasetError(f'{where}: "id" must fit in three bytes, not {number}')
    if category not in contiguous_ids:
        raise UnknownCategoryError(f"{where} has the unknown category {category}")
    others = {key: value for key, value in entry.items() if key not in UNUSED_FIELDS}
    fields = {"id": number, "category_id": contiguous_ids[category], "iscrowd": crowd}
    return {**others, **fields, "isthing": is_thing[category], "area": entry.get("area")}


def _complete_paths(
    json_file: str | os.PathLike[str],
    records: list[Record],
    panoptic_root: str | os.PathLike[str],
    sem_seg_root: str | os.PathLike[str] | None,
    faults: EntryFaults,
) -> None:
    """Replace names of maps by paths, in place."""
    maps = {
        record["image_id"]: {"file_name": record["pan_seg_file_name"], "id": record["image_id"]}
        for record in records
    }
    require_image_files(json_file, maps, panoptic_root, faults, kind="map")
    for record in records:
        name = maps[record["image_id"]]["file_name"]
        record["pan_seg_file_name"] = os.path.join(panoptic_root, name)
        if sem_seg_root is not None:
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, f"{Path(name).stem}.png")


def _count_pixels(
    json_file: str | os.PathLike[str],
    record: Record,
    stated_areas: Mapping[int, Any],
    overlapping_areas: bool,
    faults: EntryFaults,
) -> None:
    """Set `area` and `bbox` of an image's segments by their pixels.

    Segments with another number of pixels than the file states are added to `faults`; with
    `overlapping_areas` a larger number is kept.

    Raises:
        FileNotFoundError, ImageError: if the map cannot be read.
    """
    path = record["pan_seg_file_name"]
    segments = sorted(record["segments_info"], key=lambda segment: segment["id"])
    colours = read_panoptic_map(path)
    counts, boxes = _measure_segments(colours, [segment["id"] for segment in segments])
    if 0 in counts:
        require_segments(path, colours, segments)
    for segment, count, box in zip(segments, counts, boxes, strict=True):
        stated = finite_number(stated_areas[segment["id"]])
        if stated is None or stated <= 0:
            stated = count
        if stated < count or (stated > count and not overlapping_areas):
            faults.add(
                DatasetError(
                    f"{json_file}: segment {segment['id']} of image {record['image_id']}: "
                    f'"area" is {shorten(stated_areas[segment["id"]])}, but it has {count} pixels '
                    f"in {path}"
                )
            )
        segment["area"] = int(stated)
        if box is not None:
            rows, columns = box
            left, top = columns.start, rows.start
            segment["bbox"] = [left, top, columns.stop - left, rows.stop - top]


def _measure_segments(
    colours: NDArray[Any], numbers: list[int]
) -> tuple[list[int], list[tuple[slice, slice] | None]]:
    """Return the pixels of segments in a panoptic map, and their rows and columns.

    Args:
        colours: uint8 [H, W, 3].
        numbers: ids of segments in ascending order.
    """
    if not numbers:
        return [], []
    ids = panoptic_ids(colours)
    known = np.array(numbers, dtype=ids.dtype)
    index = np.searchsorted(known, ids).clip(max=len(known) - 1)
    labels = np.where(known[index] == ids, index + 1, 0)
    counts = np.bincount(labels.ravel(), minlength=len(known) + 1)[1:]
    return counts.tolist(), ndimage.find_objects(labels, len(known))
