"""COCO's panoptic format: a PNG of segment ids an image, and one JSON file for the whole run.

Format: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.formats.json_stream import (
    coco_categories,
    coco_image,
    file_head,
    numbered_records,
    write_lists,
)
from hipie.batch_inference.formats.label_ids import segment_map
from hipie.batch_inference.records import ImageRecord
from hipie.result_files import write_drawing

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder, RunFolder

FILE, FOLDER = "coco_panoptic.json", "coco_panoptic"


@register_format("coco-panoptic")
class CocoPanopticFormat(ResultFormat):
    """`coco_panoptic.json` and `coco_panoptic/NAME.png`.

    Where segments overlap, the one with the higher score keeps the pixel. Parts are left out.
    """

    run_files = (FILE, FOLDER)
    is_recognised = True

    def files(self, name: str) -> tuple[str, ...]:
        """Return the PNG of an image."""
        return (f"{FOLDER}/{name}.png",)

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:
        """Write the PNG: a segment's id is red + 256 green + 65536 blue."""
        numbers, _ = segment_map(record)
        colours = np.stack([numbers & 255, (numbers >> 8) & 255, numbers >> 16], axis=2)
        image = Image.fromarray(colours.astype(np.uint8))
        write_drawing(folder.path / FOLDER / f"{record.name}.png", image)

    def finish(self, folder: RunFolder) -> None:
        """Write the JSON file."""
        lists = {
            "categories": coco_categories(folder),
            "images": (coco_image(*numbered) for numbered in numbered_records(folder)),
            "annotations": _annotations(folder),
        }
        write_lists(folder.path / FILE, file_head(folder), lists)


def _annotations(folder: RunFolder) -> Iterator[dict[str, Any]]:
    ids = folder.category_ids()
    for image_id, record in numbered_records(folder):
        _, visible = segment_map(record)
        infos = [
            {
                "id": one.number,
                "category_id": ids[one.segment.label],
                "iscrowd": 0,
                "area": one.area,
                "bbox": list(one.box),
                "score": one.segment.score,
            }
            for one in visible
        ]
        yield {"image_id": image_id, "file_name": f"{record.name}.png", "segments_info": infos}
