"""COCO's format of instances: one JSON file for the whole run.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.formats.json_stream import (
    coco_categories,
    coco_image,
    file_head,
    numbered_records,
    write_lists,
)
from hipie.segmentation import Segment

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import RunFolder

FILE = "coco_instances.json"


@register_format("coco")
class CocoFormat(ResultFormat):
    """`coco_instances.json`: things, stuff segments, expressions and parts, as compressed RLE.

    `images` lists every image that was read, also without a segment. Annotations have `score` and
    `kind` beside COCO's fields, and parts `part_of`, the annotation of their whole.
    """

    run_files = (FILE,)

    def finish(self, folder: RunFolder) -> None:
        """Write the file."""
        lists = {
            "categories": coco_categories(folder),
            "images": (coco_image(*numbered) for numbered in numbered_records(folder)),
            "annotations": _annotations(folder),
        }
        write_lists(folder.path / FILE, file_head(folder), lists)


def _annotations(folder: RunFolder) -> Iterator[dict[str, Any]]:
    ids, numbers = folder.category_ids(), count(1)
    for image_id, record in numbered_records(folder):
        for segment in record.segments:
            yield from _annotate(segment, image_id, ids, numbers, None)


def _annotate(
    segment: Segment, image_id: int, ids: dict[str, int], numbers: Iterator[int], whole: int | None
) -> Iterator[dict[str, Any]]:
    number = None
    if segment.area:
        x1, y1, x2, y2 = segment.box
        number = next(numbers)
        annotation = {
            "id": number,
            "image_id": image_id,
            "category_id": ids[segment.label],
            "iscrowd": 0,
            "area": segment.area,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": segment.rle,
            "score": segment.score,
            "kind": segment.kind,
        }
        yield annotation if whole is None else annotation | {"part_of": whole}
    for part in segment.parts:
        yield from _annotate(part, image_id, ids, numbers, number)
