"""YOLO's text files of polygons or boxes, with `data.yaml`.

Format: https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from hipie.data.conversion.annotations import (
    AnnotatedImage,
    Annotations,
    ReadOptions,
    SegmentTree,
    box_corners,
    register_reader,
)
from hipie.data.conversion.names import images_by_label_file
from hipie.data.image_io import read_image_size
from hipie.data.io.regular_file import read_file
from hipie.data.io.validation import DatasetError


@register_reader("yolo")
def read_yolo(path: Path, options: ReadOptions) -> Annotations:
    """Read a folder with `data.yaml` and `labels`; polygons are filled with their outline.

    The images are in `images`, or in the folder of `--image-root`, under the same names.
    """
    file = path / "data.yaml"
    names = _class_names(file)
    root = Path(options.image_root) if options.image_root else path / "images"

    def images() -> Iterator[AnnotatedImage]:
        for labels, image in images_by_label_file(path / "labels", ".txt", root):
            size = read_image_size(image)
            tree = SegmentTree()
            text = read_file(labels).decode("utf-8", "replace")
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    where = f"{labels}: line {number}"
                    label, polygon = _parse(where, line, names)
                    tree.add(label, "thing", _fill(polygon, size))
            yield AnnotatedImage(image, size, tree.segments())

    return Annotations(dict.fromkeys(names.values(), "thing"), images())


def _class_names(file: Path) -> dict[int, str]:
    try:
        content = yaml.safe_load(read_file(file))
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{file}: this is not a YAML file") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(number, int) for number in names):
        raise DatasetError(f"{file}: there are no names of classes by number")
    return {number: str(name) for number, name in names.items()}


def _parse(where: str, line: str, names: dict[int, str]) -> tuple[str, NDArray[Any]]:
    """Return the class and the corners [N, 2] in shares of width and height."""
    number, *values = line.split()
    try:
        shares = np.array(values, float)
    except ValueError as error:
        raise DatasetError(f"{where} has a value that is no number") from error
    if not number.isdecimal() or int(number) not in names:
        raise DatasetError(f"{where}: {number} is no class of data.yaml")
    if not np.isfinite(shares).all() or (len(shares) != 4 and (len(shares) < 6 or len(shares) % 2)):
        raise DatasetError(f"{where} is neither a box nor a polygon with three corners")
    if len(shares) == 4:
        x, y, width, height = shares.tolist()
        left, top, right, bottom = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        shares = np.array(box_corners(left, top, right, bottom))
    return names[int(number)], shares.reshape(-1, 2)


def _fill(polygon: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    height, width = size
    # Coordinates of pixels that were divided by a side are not rounded down by the product.
    corners = np.floor(np.clip(polygon, -1, 2) * (width, height) + 1e-4).astype(np.int32)
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [corners], 1)
    return mask.astype(bool)
