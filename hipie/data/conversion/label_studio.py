"""Label Studio's JSON: brush masks, polygons and rectangles of annotations or predictions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hipie.data.conversion.annotations import (
    KINDS,
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
from hipie.data.image_io import read_image_size
from hipie.data.io.brush_rle import decode_brush
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError


@register_reader("label-studio")
def read_label_studio(path: Path, options: ReadOptions) -> Annotations:
    """Read tasks: of each the first annotation that was not cancelled, else the first prediction.

    Results of the types brushlabels, polygonlabels and rectanglelabels are segments; a `parentID`
    makes one a part.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise DatasetError(f"{path}: this is not a list of tasks of Label Studio")

    def images() -> Iterator[AnnotatedImage]:
        for position, task in enumerate(content):
            where = f"{path}: task {position}"
            data = task.get("data") if isinstance(task, dict) else None
            name = data.get("image") if isinstance(data, dict) else None
            if not isinstance(name, str):
                raise DatasetError(f"{where} has no image in its data")
            yield _image(where, _local_name(name), path.parent, options, _results(task))

    return Annotations({}, images())


def _local_name(address: str) -> str:
    """Return the path that an address of a local file has, or that of an upload."""
    parts = urlsplit(address)
    if parts.path.endswith("/data/local-files/") and "d" in parse_qs(parts.query):
        path = unquote(parts.query.partition("d=")[2].partition("&")[0], errors="surrogateescape")
        return path if os.path.isfile(path) else f"/{path.lstrip('/')}"
    if parts.path.startswith("/data/upload/"):
        # The server puts a hash before the name of an uploaded file.
        return os.path.basename(unquote(parts.path)).partition("-")[2]
    return address


def _results(task: dict[str, Any]) -> list[Any]:
    annotations = [
        one
        for one in task.get("annotations") or ()
        if isinstance(one, dict) and not one.get("was_cancelled")
    ]
    for one in (*annotations, *(task.get("predictions") or ())):
        if isinstance(one, dict) and isinstance(one.get("result"), list):
            results: list[Any] = one["result"]
            return results
    return []


def _image(
    where: str, name: str, folder: Path, options: ReadOptions, results: list[Any]
) -> AnnotatedImage:
    file = find_image(name, folder, options)
    size: tuple[int, int] | None = None
    tree = SegmentTree()
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        kind = result.get("type") if isinstance(result, dict) else None
        if not isinstance(value, dict) or kind not in (
            "brushlabels",
            "polygonlabels",
            "rectanglelabels",
        ):
            continue
        size = require_size(where, result.get("original_height"), result.get("original_width"))
        labels = value.get(kind)
        if not isinstance(labels, list) or not labels or not isinstance(labels[0], str):
            raise DatasetError(f"{where}: a result has no label")
        mask = _mask(where, kind, value, size)
        score = result.get("score")
        tree.add(
            labels[0],
            _kind(result.get("meta")),
            mask,
            float(score) if isinstance(score, int | float) else 1.0,
            result.get("id"),
            result.get("parentID") or None,
        )
    return AnnotatedImage(file, size or read_image_size(file), tree.segments())


def _kind(meta: Any) -> str:
    texts = meta.get("text") if isinstance(meta, dict) else None
    texts = texts if isinstance(texts, list) else [texts]
    return next((text for text in texts if text in KINDS), "thing")


def _mask(where: str, kind: str, value: dict[str, Any], size: tuple[int, int]) -> Any:
    height, width = size
    try:
        if kind == "brushlabels":
            return decode_brush(value.get("rle") or (), height, width)
        if kind == "polygonlabels":
            # Shares of the sides, in percent.
            points = [
                coordinate * side / 100
                for x, y in value["points"]
                for coordinate, side in ((x, width), (y, height))
            ]
            return encode_polygons(where, [points], size)
        x, y, across, down = (float(value[key]) for key in ("x", "y", "width", "height"))
        left, top = x * width / 100, y * height / 100
        right, bottom = (x + across) * width / 100, (y + down) * height / 100
        return encode_polygons(where, [box_corners(left, top, right, bottom)], size)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{where}: a result cannot be read ({error})") from error
