"""LabelMe's JSON files, one an image: shapes of the types mask, polygon, rectangle and circle."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hipie.data.conversion.annotations import (
    KINDS,
    AnnotatedImage,
    Annotations,
    ReadOptions,
    SegmentTree,
    box_corners,
    encode_polygons,
    find_image,
    json_files,
    register_reader,
    require_size,
)
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError

CIRCLE_CORNERS = 64
_MASK_ERRORS = (binascii.Error, UnidentifiedImageError, OSError, ValueError)


@register_reader("labelme")
def read_labelme(path: Path, options: ReadOptions) -> Annotations:
    """Read one file, or those below a folder; shapes of other types have no area, and no segment.

    The kind is the first word of the description, as `hipie segment` writes it, else "thing".
    Parts belong to the first shape with their `group_id`.
    """

    def images() -> Iterator[AnnotatedImage]:
        for file in json_files(path) if path.is_dir() else [path]:
            content = read_json(file)
            if isinstance(content, dict) and isinstance(content.get("shapes"), list):
                yield _image(file, content, options)
            elif not path.is_dir():
                raise DatasetError(f"{file}: this is not a file of LabelMe")

    return Annotations({}, images())


def _image(file: Path, content: dict[str, Any], options: ReadOptions) -> AnnotatedImage:
    size = require_size(str(file), content.get("imageHeight"), content.get("imageWidth"))
    tree = SegmentTree()
    wholes: dict[Any, int] = {}
    for position, shape in enumerate(content["shapes"]):
        where = f"{file}: shape {position}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise DatasetError(f"{where} has no label")
        mask = _mask(where, shape, size)
        if mask is None:
            continue
        kind, score = _description(shape.get("description"))
        group = shape.get("group_id")
        whole = wholes.get(group) if kind == "part" and group is not None else None
        if kind != "part" and group is not None:
            wholes.setdefault(group, position)
        tree.add(shape["label"], kind, mask, score, position, whole)
    name = content.get("imagePath")
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{file}: there is no imagePath")
    image = find_image(name.replace("\\", "/"), file.parent, options)
    return AnnotatedImage(image, size, tree.segments())


def _description(text: Any) -> tuple[str, float]:
    """Return kind and score of "thing, score 0.9000"."""
    kind, _, rest = text.partition(",") if isinstance(text, str) else ("", "", "")
    if kind not in KINDS:
        return "thing", 1.0
    word = rest.rpartition(" ")[2]
    return kind, float(word) if word.replace(".", "", 1).isdecimal() else 1.0


def _mask(where: str, shape: dict[str, Any], size: tuple[int, int]) -> Any:
    kind = shape.get("shape_type") or "polygon"
    if kind not in ("mask", "polygon", "rectangle", "circle"):
        return None
    points = shape.get("points")
    try:
        corners = np.array(points, float).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where}: its points are not pairs of numbers") from error
    if kind == "polygon":
        return encode_polygons(where, [corners.ravel().tolist()], size)
    if len(corners) != 2 or not np.isfinite(corners).all():
        raise DatasetError(f"{where}: a {kind} has two points")
    (x1, y1), (x2, y2) = corners.tolist()
    if kind == "rectangle":
        return encode_polygons(where, [box_corners(x1, y1, x2, y2)], size)
    if kind == "circle":
        radius = math.hypot(x2 - x1, y2 - y1)
        angles = np.arange(CIRCLE_CORNERS) * (2 * math.pi / CIRCLE_CORNERS)
        circle = np.stack([x1 + radius * np.cos(angles), y1 + radius * np.sin(angles)], axis=1)
        return encode_polygons(where, [circle.ravel().tolist()], size)
    return _place(where, _decode(where, shape.get("mask")), round(x1), round(y1), size)


def _decode(where: str, text: Any) -> NDArray[Any]:
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]
        ) as image:
            return np.array(image.convert("L")) > 0
    except (*_MASK_ERRORS, TypeError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{where}: its mask is not a PNG in base64") from error


def _place(
    where: str, crop: NDArray[Any], left: int, top: int, size: tuple[int, int]
) -> NDArray[Any]:
    mask = np.zeros(size, bool)
    bottom, right = top + crop.shape[0], left + crop.shape[1]
    if top < 0 or left < 0 or bottom > size[0] or right > size[1]:
        raise DatasetError(f"{where}: its mask is not inside the image")
    mask[top:bottom, left:right] = crop
    return mask
