"""Text files of YOLO's segmentation format, and `data.yaml`.

Format: https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import yaml

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.formats.polygons import mask_to_polygon
from hipie.batch_inference.records import ImageRecord
from hipie.result_files import replace_file

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder, RunFolder

FOLDER = "yolo"
DATA = f"{FOLDER}/data.yaml"
# Place of a point in its pixel: readers that round and those that cut off get the same pixel.
INSIDE = 0.25


@register_format("yolo")
class YoloFormat(ResultFormat):
    """`yolo/labels/NAME.txt`: a line a segment or part, its class from 0 and one polygon.

    Coordinates are shares of width and height. The images belong into `yolo/images`, under the same
    names.
    """

    run_files = (FOLDER, DATA)

    def files(self, name: str) -> tuple[str, ...]:
        """Return the text file of an image."""
        return (f"{FOLDER}/labels/{name}.txt",)

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:
        """Write the text file; an image without a segment has an empty one."""
        ids, (height, width) = folder.category_ids(), record.size
        lines = []
        for segment in record.walk():
            polygon = mask_to_polygon(segment.mask)
            if not len(polygon):
                continue
            # At least three points: shorter lines are boxes.
            polygon = np.concatenate([polygon, polygon[-1:].repeat(max(0, 3 - len(polygon)), 0)])
            shares = (polygon + INSIDE) / (width, height)
            numbers = " ".join(f"{share:.8f}" for share in shares.ravel())
            lines.append(f"{ids[segment.label] - 1} {numbers}\n")
        text = "".join(lines).encode()
        path = folder.path / FOLDER / "labels" / f"{record.name}.txt"
        replace_file(path, lambda file: file.write(text))

    def finish(self, folder: RunFolder) -> None:
        """Write `data.yaml` with the names of the classes."""
        names = {number - 1: name for name, number in folder.category_ids().items()}
        content = {"path": ".", "train": "images", "val": "images", "nc": len(names)}
        text = yaml.safe_dump(content | {"names": names}, allow_unicode=True, sort_keys=False)
        replace_file(folder.path / DATA, lambda file: file.write(text.encode()))
