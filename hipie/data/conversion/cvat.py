"""CVAT's XML format 1.1 for images: masks, polygons and boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Documents with a DOCTYPE, which entities need, are refused before they are parsed.
from xml.etree import ElementTree  # nosec B405

import numpy as np
from numpy.typing import NDArray

from hipie.data.conversion.annotations import (
    AnnotatedImage,
    Annotations,
    ReadOptions,
    SegmentTree,
    box_corners,
    encode_polygons,
    find_image,
    register_reader,
    require_size,
)
from hipie.data.io.regular_file import read_file
from hipie.data.io.validation import DatasetError


@register_reader("cvat")
def read_cvat(path: Path, options: ReadOptions) -> Annotations:
    """Read the masks, polygons and boxes of every image, in the order of `z_order`."""
    data = read_file(path)
    if b"<!DOCTYPE" in data or "<!DOCTYPE".encode("utf-16-le") in data:
        raise DatasetError(f"{path}: a document with a DOCTYPE is not read")
    try:
        # Without a DOCTYPE there are no entities.
        root = ElementTree.fromstring(data)  # nosec B314
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{path}: this is not an XML file ({error})") from error
    if root.tag != "annotations":
        raise DatasetError(f"{path}: this is not an XML file of CVAT for images")
    labels = [label.text or "" for label in root.iterfind("meta//labels/label/name")]

    def images() -> Iterator[AnnotatedImage]:
        for element in root.iterfind("image"):
            name = element.get("name", "")
            where = f"{path}: image {name}"
            size = require_size(where, element.get("height"), element.get("width"))
            tree = SegmentTree()
            for shape in sorted(element, key=_order):
                if shape.tag in ("mask", "polygon", "box"):
                    mask = _mask(where, shape, size)
                    tree.add(shape.get("label", ""), "thing", mask)
            yield AnnotatedImage(find_image(name, path.parent, options), size, tree.segments())

    return Annotations(dict.fromkeys(labels, "thing"), images())


def _order(shape: ElementTree.Element) -> int:
    text = shape.get("z_order", "0")
    return int(text) if text.lstrip("-").isdecimal() else 0


def _mask(where: str, shape: ElementTree.Element, size: tuple[int, int]) -> Any:
    try:
        if shape.tag == "box":
            x1, y1, x2, y2 = (float(shape.get(key, "")) for key in ("xtl", "ytl", "xbr", "ybr"))
            return encode_polygons(where, [box_corners(x1, y1, x2, y2)], size)
        if shape.tag == "polygon":
            points = shape.get("points", "").replace(";", ",").split(",")
            return encode_polygons(where, [[float(value) for value in points]], size)
        left, top, width, height = (
            int(shape.get(key, "")) for key in ("left", "top", "width", "height")
        )
        runs = [int(run) for run in shape.get("rle", "").split(",")]
    except ValueError as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{where}: a {shape.tag} has a value that is no number") from error
    crop = decode_runs(where, runs, height, width)
    mask = np.zeros(size, bool)
    if min(left, top) < 0 or top + height > size[0] or left + width > size[1]:
        raise DatasetError(f"{where}: a mask is not inside the image")
    mask[top : top + height, left : left + width] = crop
    return mask


def decode_runs(where: str, runs: list[int], height: int, width: int) -> NDArray[np.bool_]:
    """Decode the lengths of runs row by row, of which the first one is of zeros.

    Raises:
        DatasetError: if they are not as many pixels.
    """
    lengths = np.array(runs, np.int64)
    if min(height, width) < 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise DatasetError(f"{where}: the runs of a mask are not {width}x{height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, lengths).reshape(height, width)
