"""LabelMe's JSON files, with masks to the pixel.

Format: `labelme.LabelFile` of LabelMe 5.2 and later, which have shapes of the type "mask".
"""

from __future__ import annotations

import base64
import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.records import ImageRecord
from hipie.result_files import write_json
from hipie.segmentation import Segment

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder

FOLDER = "labelme"
VERSION = "5.5.0"


@register_format("labelme")
class LabelmeFormat(ResultFormat):
    """`labelme/NAME.json`: a shape a segment or part; parts have the `group_id` of their whole.

    `imagePath` leads from the file to the image. Frames of videos are in `imageData`.
    """

    run_files = (FOLDER,)

    def files(self, name: str) -> tuple[str, ...]:
        """Return the JSON file of an image."""
        return (f"{FOLDER}/{name}.json",)

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:
        """Write the JSON file."""
        path = folder.path / FOLDER / f"{record.name}.json"
        height, width = record.size
        shapes: list[dict[str, Any]] = []
        for group, segment in enumerate(record.segments, 1):
            shapes += _shapes(segment, group)
        content: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": _path_between(path.parent, record.source),
            "imageData": None if record.frame is None else _png(record.read_pixels()),
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(path, content)


def _shapes(segment: Segment, group: int) -> list[dict[str, Any]]:
    shapes = []
    if segment.area:
        left, top, right, bottom = (int(side) for side in segment.box)
        crop = segment.mask[top:bottom, left:right]
        shapes.append(
            {
                "label": segment.label,
                "points": [[left, top], [right - 1, bottom - 1]],
                "group_id": group,
                "description": f"{segment.kind}, score {segment.score:.4f}",
                "shape_type": "mask",
                "flags": {},
                "mask": _png(crop.astype(np.uint8) * 255),
            }
        )
    for part in segment.parts:
        shapes += _shapes(part, group)
    return shapes


def _png(pixels: NDArray[Any]) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _path_between(folder: os.PathLike[str], source: str) -> str:
    try:
        return os.path.relpath(source, os.path.abspath(folder)).replace(os.sep, "/")
    except ValueError:  # On another drive.
        return source
