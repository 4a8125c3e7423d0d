"""The annotation of one image of any registered kind, as masks with names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.data.transforms import NoOpTransform
from numpy.typing import NDArray

from hipie.data.dataset_mappers.annotations import instance_masks, panoptic_masks
from hipie.data.datasets.panoptic_parts import decode_uids
from hipie.data.image_io import read_image, read_label_map
from hipie.segmentation import Segment
from hipie.vocabularies.vocabulary import Vocabulary

KINDS = (
    "pan_seg_file_name",
    "pan_part_file_name",
    "part_seg_file_name",
    "annotations",
    "sem_seg_file_name",
)


@dataclass(frozen=True)
class ExpressionTargets:
    """An expression and the positions of the objects that it means."""

    text: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class AnnotationView:
    """An image with what is said of it.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        segments: things and stuff by name; parts by phrase; the objects of expressions by number.
            Their scores mean nothing.
        expressions: those of a data set of expressions.
    """

    image: NDArray[Any]
    segments: list[Segment]
    expressions: list[ExpressionTargets]


def dataset_vocabulary(metadata: Metadata) -> Vocabulary | None:
    """The classes of a data set; None where it has expressions only."""
    known = ("vocabulary", "thing_classes", "stuff_classes")
    if not any(metadata.get(key) for key in known):
        return None
    return Vocabulary.from_metadata(metadata)


def read_annotation(record: dict[str, Any], metadata: Metadata) -> AnnotationView:
    """Read an image and its annotation.

    Args:
        record: of the catalog, in any form that the mappers of this package take.
        metadata: of its data set.

    Raises:
        ValueError, FileNotFoundError: naming what cannot be read, or does not fit together.
    """
    if "file_name" not in record:
        raise ValueError("groups of images cannot be looked at one by one")
    place = record["file_name"]
    kind = next((key for key in KINDS if key in record), None)
    if kind is None:
        raise ValueError(f"{place}: the data set says nothing of it that could be shown")
    image = read_image(place)
    size = image.shape[:2]
    said = record.get("height", size[0]), record.get("width", size[1])
    if size != said:
        raise ValueError(f"{place}: the image is {_by(size)}, its annotation says {_by(said)}")
    if kind == "annotations":
        masks, classes = instance_masks(record[kind], *size, NoOpTransform())
    elif kind == "pan_seg_file_name":
        colours = _fitting(record[kind], size)
        masks, classes = panoptic_masks(colours, record["segments_info"], NoOpTransform())
    elif kind == "pan_part_file_name":
        return AnnotationView(image, _objects_with_parts(record[kind], size, metadata), [])
    else:
        masks, classes = _label_map(record[kind], size, metadata)
    expressions = [
        ExpressionTargets(s["expression"], tuple(s["targets"]))
        for s in record.get("expressions", ())
    ]
    vocabulary = None if expressions else dataset_vocabulary(metadata)
    return AnnotationView(image, _segments(place, masks, classes, vocabulary), expressions)


def _segments(
    place: str, masks: NDArray[Any], classes: Sequence[int], vocabulary: Vocabulary | None
) -> list[Segment]:
    if vocabulary is None:
        return [Segment(f"object {i}", "thing", mask, 1.0) for i, mask in enumerate(masks, 1)]
    found = []
    for mask, index in zip(masks, classes, strict=True):
        if not 0 <= index < len(vocabulary.classes):
            raise ValueError(
                f"{place}: an object is of class number {index}, and the data set has "
                f"{len(vocabulary.classes)} classes"
            )
        entry = vocabulary.classes[index]
        found.append(Segment(entry.name, entry.kind, mask, 1.0))
    return found


def _objects_with_parts(path: str, size: tuple[int, int], metadata: Metadata) -> list[Segment]:
    """Objects and stuff of a panoptic parts map; after each object its parts."""
    labels = _fitting(path, size)
    try:
        truth = decode_uids(labels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    found = []
    for one in metadata.part_pq_classes:
        of_class = np.isin(truth.classes, one.numbers)
        for number in np.unique(truth.objects[of_class]):
            mask = of_class & (truth.objects == number)
            found.append(Segment(one.name, "thing" if one.thing else "stuff", mask, 1.0))
            for place, name in enumerate(one.part_names, 1):
                given = [part for part, shown in one.parts.items() if shown == place]
                part = mask & np.isin(truth.parts, given)
                if part.any():
                    found.append(Segment(f"{one.name} {name}", "part", part, 1.0))
    return found


def _label_map(
    path: str, size: tuple[int, int], metadata: Metadata
) -> tuple[NDArray[Any], list[int]]:
    """A mask for every class in the map. Maps of parts count from 1, those of stuff from 0."""
    labels = _fitting(path, size).astype(np.int64)
    ignored = metadata.get("ignore_label", 255)
    first = 1 if ignored == 0 else 0
    shown = [int(value) for value in np.unique(labels) if value != ignored]
    masks = [labels == value for value in shown]
    stacked = np.stack(masks) if masks else np.zeros((0, *size), bool)
    return stacked, [value - first for value in shown]


def _fitting(path: str, size: tuple[int, int]) -> NDArray[Any]:
    labels = read_label_map(path)
    if labels.shape[:2] != size:
        raise ValueError(f"{path}: the map is {_by(labels.shape[:2])}, its image {_by(size)}")
    return labels


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]} pixels"
