"""Annotations of any format in one form, and the table of their readers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError, shorten
from hipie.errors import UsageError, cause_of
from hipie.segmentation import RleSegment, Segment

KINDS = ("thing", "stuff", "part", "expression")
MIN_CORNERS = 3


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its segments.

    Attributes:
        file: path of the image.
        size: (height, width) in pixels.
        segments: with their parts.
        image_id: the id in the file that was read.
    """

    file: str
    size: tuple[int, int]
    segments: Sequence[Segment]
    image_id: int | None = None


@dataclass(frozen=True)
class Annotations:
    """A data set that was opened.

    Attributes:
        classes: kinds by class name, as far as the format has them before its images; others are
            added in the order of their appearance.
        images: read when they are iterated over.
    """

    classes: Mapping[str, str]
    images: Iterator[AnnotatedImage]


@dataclass(frozen=True)
class ReadOptions:
    """How annotations are read.

    Attributes:
        image_root: folder of the images, from which their names, or the ends of their names, lead;
            "" = where the format has them.
        outside_files: whether names of images may be absolute or have `..`.
    """

    image_root: str = ""
    outside_files: bool = False


Reader = Callable[[Path, ReadOptions], Annotations]
READERS: dict[str, Reader] = {}
"""Readers by the name of their format, which is that of `hipie segment --format`."""


def register_reader(name: str) -> Callable[[Reader], Reader]:
    """Decorator that registers a reader under the name of its format."""

    def register(reader: Reader) -> Reader:
        READERS[name] = reader
        return reader

    return register


def read_annotations(
    path: str | os.PathLike[str], name: str = "", options: ReadOptions | None = None
) -> Annotations:
    """Open annotations.

    Args:
        path: a file, or a folder for formats of many files.
        name: of the format; "" = recognise it.
        options: how they are read.

    Raises:
        UsageError: for an unknown format, or one that is not recognised.
        DatasetError, InputError: naming the file that cannot be read.
    """
    path = Path(path)
    name = name or recognise(path)
    if name not in READERS:
        raise UsageError(f"there is no format {name}; formats are {', '.join(sorted(READERS))}")
    return READERS[name](path, options or ReadOptions())


def recognise(path: Path) -> str:
    """Return the name of the format of a file or folder.

    Raises:
        UsageError: if it is none of `READERS`.
        DatasetError: if it does not exist or cannot be read.
    """
    if not path.exists():
        raise DatasetError(f"{path}: there is no such file or folder")
    if path.is_dir():
        for file, name in (("data.yaml", "yolo"), ("classes.txt", "label-map")):
            if (path / file).is_file():
                return name
        first = next((file for file in json_files(path)), None)
        name = _recognise_content(read_json(first)) if first is not None else ""
        if name in ("json", "labelme"):
            return name
    else:
        suffixes = {".parquet": "parquet", ".xml": "cvat", ".jsonl": "jsonl"}
        name = suffixes.get(path.suffix.lower(), "")
        if not name and path.suffix.lower() == ".json":
            name = _recognise_content(read_json(path))
        if name:
            return name
    raise UsageError(f"{path}: the format is not recognised; name it with --format")


def _recognise_content(content: Any) -> str:
    if isinstance(content, list):
        tasks = [entry for entry in content if isinstance(entry, dict) and "data" in entry]
        return "label-studio" if tasks else ""
    if not isinstance(content, dict):
        return ""
    if "shapes" in content:
        return "labelme"
    if "segments" in content and "image" in content:
        return "json"
    entries = content.get("annotations")
    if "images" not in content or not isinstance(entries, list):
        return ""
    is_panoptic = any(isinstance(entry, dict) and "segments_info" in entry for entry in entries)
    return "coco-panoptic" if is_panoptic else "coco"


def json_files(folder: Path) -> Iterator[Path]:
    """Iterate over the JSON files below a folder, without hidden ones, by name."""
    for current, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(".json") and not name.startswith("."):
                yield Path(current) / name


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Iterate over the numbers, from 1, and the objects of the lines of a file.

    Raises:
        DatasetError: naming the line that is no JSON.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except ValueError as error:
                        raise DatasetError(f"{path}: line {number} is no JSON") from error
    except OSError as error:
        raise DatasetError(f"{path}: it cannot be read ({cause_of(error)})") from error


def find_image(name: str, folder: Path, options: ReadOptions) -> str:
    """Return the path of an image that a file names.

    Args:
        name: as written there.
        folder: of the file.
        options: with an image root the name, or as long an end of it as possible, leads from there;
            else the name leads from the folder, or from the working directory.

    Raises:
        DatasetError: if there is no such image, or the name is absolute or has `..`, which only
            `outside_files` or an image root permit.
    """
    if "\0" in name:
        raise DatasetError(f"{shorten(name)} is not a file name")
    path = PureWindowsPath(name)  # Slashes and backslashes separate.
    if options.image_root:
        parts = [part for part in path.parts if part not in (path.anchor, "..")]
        candidates = [
            os.path.join(options.image_root, *parts[begin:]) for begin in range(len(parts))
        ]
    elif not options.outside_files and (path.drive or path.root or ".." in path.parts):
        raise DatasetError(
            f"{name} leaves the folder of the annotations; name the folder of the images with "
            "--image-root, or add --allow-outside-files if you trust the annotations"
        )
    else:
        candidates = [os.path.join(folder, name), name]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    raise DatasetError(
        f"{candidates[0] if candidates else name}: there is no such image; --image-root names the "
        "folder of the images"
    )


def encode_polygons(
    where: str, polygons: Sequence[Sequence[float]], size: tuple[int, int]
) -> dict[str, Any]:
    """Encode the union of polygons.

    Args:
        where: what the polygons are of, for the error message.
        polygons: each x, y, x, y, ... in pixels.
        size: (height, width) of the image.

    Returns:
        COCO's compressed RLE.

    Raises:
        DatasetError: for a polygon with less than three corners, or that is not of finite numbers.
    """
    flat = [[float(value) for value in polygon] for polygon in polygons]
    for polygon in flat:
        if len(polygon) < 2 * MIN_CORNERS or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise DatasetError(f"{where}: a polygon has not three corners with finite numbers")
    rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(flat, *size))
    return rle


def box_corners(x1: float, y1: float, x2: float, y2: float) -> list[float]:
    """Return the polygon of a box."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def require_size(where: str, height: Any, width: Any) -> tuple[int, int]:
    """Return (height, width).

    Raises:
        DatasetError: if they are not whole numbers from 1.
    """
    values = []
    for value in (height, width):
        number = int(value) if str(value).isdecimal() else 0
        if number < 1:
            raise DatasetError(f"{where}: height and width have to be numbers of pixels from 1")
        values.append(number)
    return values[0], values[1]


@dataclass
class SegmentTree:
    """Segments of an image whose parts name their whole by an id, in the order of the file."""

    entries: list[tuple[Any, Any, Segment]] = field(default_factory=list)

    def add(
        self,
        label: str,
        kind: str,
        mask: NDArray[Any] | Mapping[str, Any],
        score: float = 1.0,
        number: Any = None,
        part_of: Any = None,
    ) -> None:
        """Add a segment.

        Args:
            label: class name.
            kind: one of `KINDS`.
            mask: [H, W] bool, or an RLE.
            score: in 0..1.
            number: id of the segment.
            part_of: id of its whole.
        """
        self.entries.append((number, part_of, RleSegment(label, kind, mask, score)))

    def segments(self) -> list[Segment]:
        """Return the segments with their parts; a part without its whole is a segment."""
        known = {number for number, _, _ in self.entries if number is not None}
        by_whole: dict[Any, list[tuple[Any, Any, Segment]]] = {}
        top: list[tuple[Any, Any, Segment]] = []
        for entry in self.entries:
            is_part = entry[1] is not None and entry[1] in known and entry[1] != entry[0]
            (by_whole.setdefault(entry[1], []) if is_part else top).append(entry)

        def build(entry: tuple[Any, Any, Segment]) -> Segment:
            number, _, segment = entry
            parts = by_whole.pop(number, []) if number is not None else []
            mask = segment.rle
            return RleSegment(
                segment.label, segment.kind, mask, segment.score, [build(part) for part in parts]
            )

        return [build(entry) for entry in top]
