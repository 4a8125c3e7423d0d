"""Training sets in COCO's formats, from annotations of any format."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hipie.data.conversion.annotations import AnnotatedImage, Annotations
from hipie.data.image_io import read_image_size, require_size
from hipie.data.io.validation import DatasetError
from hipie.errors import InputError
from hipie.result_files import replace_file
from hipie.segmentation import Segment

INSTANCES, PANOPTIC = "instances.json", "panoptic.json"


@dataclass
class Counts:
    """What was written.

    Attributes:
        images: number of images.
        segments: number of segments with parts, in a panoptic set without.
        image_root: folder from which the names of the images lead.
        classes: kinds by class name.
    """

    images: int = 0
    segments: int = 0
    image_root: str = ""
    classes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """Which segments are written.

    Attributes:
        stuff: names of classes that are stuff, whatever the annotations say.
        kinds: only these kinds of segments; empty = all.
        min_score: only segments with at least this score.
    """

    stuff: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    min_score: float = 0.0

    def kind(self, segment: Segment) -> str:
        """Return the kind of a segment."""
        return "stuff" if segment.label in self.stuff else segment.kind

    def takes(self, segment: Segment) -> bool:
        """Whether a segment, which may be without pixels, is written."""
        is_kind = not self.kinds or self.kind(segment) in self.kinds
        return is_kind and segment.area > 0 and segment.score >= self.min_score


def write_instances(
    annotations: Annotations, folder: Path, selection: Selection | None = None
) -> Counts:
    """Write `instances.json`, COCO instances with masks as RLE, in a folder.

    Annotations have `kind`, `score` and, of parts, `part_of` beside COCO's fields.

    Raises:
        DatasetError, InputError: naming what cannot be read or written.
    """
    chosen = selection or Selection()

    def annotate(image_id: int, image: AnnotatedImage, ids: _Classes) -> Iterator[dict[str, Any]]:
        for segment in image.segments:
            yield from _annotate(segment, image_id, None, ids, numbers, chosen)

    numbers = count(1)
    return _write(annotations, folder / INSTANCES, chosen, annotate)


def write_panoptic(
    annotations: Annotations, folder: Path, selection: Selection | None = None
) -> Counts:
    """Write `panoptic.json` and the folder `panoptic` of PNG files.

    Where segments overlap, the one with the higher score keeps the pixel, of equal ones the later
    one. Parts are left out.

    Raises:
        DatasetError, InputError: naming what cannot be read or written.
    """
    chosen = selection or Selection()
    maps = (folder / PANOPTIC).with_suffix("")

    def annotate(image_id: int, image: AnnotatedImage, ids: _Classes) -> Iterator[dict[str, Any]]:
        segments = [one for one in image.segments if one.kind != "part" and chosen.takes(one)]
        numbers = np.zeros(image.size, np.int32)
        for position in np.argsort([one.score for one in segments], kind="stable").tolist():
            numbers[segments[position].mask] = position + 1
        infos = []
        for number, segment in enumerate(segments, 1):
            rows, columns = np.nonzero(numbers == number)
            if len(rows):
                left, top = int(columns.min()), int(rows.min())
                infos.append(
                    {
                        "id": number,
                        "category_id": ids.number(segment.label, chosen.kind(segment)),
                        "iscrowd": 0,
                        "area": len(rows),
                        "bbox": [
                            left,
                            top,
                            int(columns.max()) + 1 - left,
                            int(rows.max()) + 1 - top,
                        ],
                    }
                )
        colours = np.stack([numbers & 255, (numbers >> 8) & 255, numbers >> 16], axis=2)
        drawing = Image.fromarray(colours.astype(np.uint8))
        file_name = f"{image_id:012d}.png"
        replace_file(maps / file_name, partial(drawing.save, format="PNG"))
        yield {"image_id": image_id, "file_name": file_name, "segments_info": infos}

    return _write(annotations, folder / PANOPTIC, chosen, annotate)


class _Classes:
    """Category ids by name, from 1, in the order of their appearance."""

    def __init__(self, kinds: Mapping[str, str], selection: Selection) -> None:
        self.kinds = {
            name: "stuff" if name in selection.stuff else kind for name, kind in kinds.items()
        }
        self._numbers = {name: number for number, name in enumerate(self.kinds, 1)}

    def number(self, name: str, kind: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers) + 1
            self.kinds[name] = kind
        return self._numbers[name]

    def entries(self) -> list[dict[str, Any]]:
        return [
            {"id": number, "name": name, "isthing": int(self.kinds[name] != "stuff")}
            for name, number in self._numbers.items()
        ]


def _annotate(
    segment: Segment,
    image_id: int,
    whole: int | None,
    ids: _Classes,
    numbers: Iterator[int],
    selection: Selection,
) -> Iterator[dict[str, Any]]:
    number = None
    if selection.takes(segment):
        left, top, right, bottom = segment.box
        number = next(numbers)
        kind = selection.kind(segment)
        annotation = {
            "id": number,
            "image_id": image_id,
            "category_id": ids.number(segment.label, kind),
            "iscrowd": 0,
            "area": segment.area,
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": segment.rle,
            "score": segment.score,
            "kind": kind,
        }
        yield annotation if whole is None else annotation | {"part_of": whole}
    for part in segment.parts:
        yield from _annotate(part, image_id, number, ids, numbers, selection)


def _write(annotations: Annotations, path: Path, selection: Selection, annotate: Any) -> Counts:
    """Write a file whose annotations are kept on the disk until all classes are known."""
    ids = _Classes(annotations.classes, selection)
    images: list[tuple[int, AnnotatedImage]] = []
    counts = Counts()
    used: set[int] = set()
    seen: set[str] = set()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as lines:
        for image in annotations.images:
            file = os.path.realpath(image.file)
            if file in seen:
                raise DatasetError(f"{image.file}: the annotations have this image twice")
            seen.add(file)
            require_size(image.file, read_image_size(image.file, decode=False), image.size)
            given = image.image_id
            number = given if given is not None and given not in used else _free(used)
            used.add(number)
            for entry in annotate(number, image, ids):
                counts.segments += len(entry.get("segments_info", (0,)))
                lines.write(json.dumps(entry) + "\n")
            images.append((number, AnnotatedImage(file, image.size, ())))
        if not images:
            raise InputError("the annotations have no image")
        counts.images = len(images)
        counts.image_root = os.path.commonpath([os.path.dirname(image.file) for _, image in images])
        counts.classes = ids.kinds
        entries = [_image_entry(number, image, counts.image_root) for number, image in images]
        lines.seek(0)
        replace_file(path, partial(_write_file, ids.entries(), entries, lines))
    return counts


def _write_file(
    categories: Sequence[Any], images: Sequence[Any], lines: Iterator[str], file: Any
) -> None:
    stream = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
    head = {"settings": {"program": "hipie data convert"}, "categories": categories}
    stream.write(json.dumps(head | {"images": images})[:-1] + ', "annotations": [')
    for number, line in enumerate(lines):
        stream.write((",\n" if number else "\n") + line.rstrip("\n"))
    stream.write("\n]}\n")
    stream.detach()


def _free(used: set[int]) -> int:
    number = len(used) + 1
    while number in used:
        number += 1
    return number


def _image_entry(number: int, image: AnnotatedImage, root: str) -> dict[str, Any]:
    name = os.path.relpath(image.file, root).replace(os.sep, "/")
    return {"id": number, "file_name": name, "height": image.size[0], "width": image.size[1]}
