"""Annotations of an image in any supported format, as labelled masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.data.transforms import NoOpTransform
from numpy.typing import NDArray

from hipie.data.annotation_maps import read_class_map, read_panoptic_map, require_segments
from hipie.data.dataset_mappers.annotations import (
    instance_masks,
    panoptic_masks,
    semantic_masks,
)
from hipie.data.datasets.panoptic_parts import decode_uids
from hipie.data.image_io import read_image, read_label_map, require_map_size, require_size
from hipie.data.label_values import PART_IGNORE, background_index, ignore_label, offset_part_labels
from hipie.errors import InputError
from hipie.segmentation import Segment
from hipie.vocabularies.vocabulary import Vocabulary

ANNOTATION_KEYS = (
    "pan_seg_file_name",
    "pan_part_file_name",
    "part_seg_file_name",
    "annotations",
    "sem_seg_file_name",
)


@dataclass(frozen=True)
class ExpressionTargets:
    """A referring expression and the positions of its target objects."""

    text: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class AnnotationView:
    """An image and its annotation.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        segments: things, stuff and parts labelled by class name, objects of referring data sets by
            number; all scores are 1.
        expressions: referring expressions; empty for other data sets.
    """

    image: NDArray[Any]
    segments: list[Segment]
    expressions: list[ExpressionTargets]


def dataset_vocabulary(metadata: Metadata) -> Vocabulary | None:
    """Return the vocabulary of a data set; None for referring data sets without classes."""
    keys = ("vocabulary", "thing_classes", "stuff_classes")
    if not any(metadata.get(key) for key in keys):
        return None
    return Vocabulary.from_metadata(metadata)


def background_of(metadata: Metadata) -> int | None:
    """Return the index of a data set's background class, see `background_index`."""
    vocabulary = dataset_vocabulary(metadata)
    return background_index(metadata, vocabulary.names) if vocabulary else None


def read_annotation(record: dict[str, Any], metadata: Metadata) -> AnnotationView:
    """Read an image and its annotation.

    Args:
        record: a record of the data set, in any format that the dataset mappers support.
        metadata: metadata of the data set.

    Raises:
        ValueError, FileNotFoundError: naming the file that cannot be read or has another size.
    """
    if "file_name" not in record:
        raise InputError("records of groups of images are not supported")
    path = record["file_name"]
    key = next((key for key in ANNOTATION_KEYS if key in record), None)
    if key is None:
        raise InputError(f"{path}: the record has no annotation")
    image = read_image(path)
    size = (image.shape[0], image.shape[1])
    require_size(path, size, (record.get("height", size[0]), record.get("width", size[1])))
    if key == "annotations":
        masks, classes = instance_masks(record[key], *size, NoOpTransform())
    elif key == "pan_seg_file_name":
        colours = read_panoptic_map(record[key])
        require_map_size(record[key], colours.shape[:2], size)
        require_segments(record[key], colours, record["segments_info"])
        masks, classes = panoptic_masks(colours, record["segments_info"], NoOpTransform())
    elif key == "pan_part_file_name":
        return AnnotationView(image, _objects_with_parts(record[key], size, metadata), [])
    else:
        labels = read_class_map(record[key]).astype(np.int64)
        require_map_size(record[key], labels.shape, size)
        # Part maps store class index + 1.
        is_part_map = key == "part_seg_file_name"
        if is_part_map:
            labels = offset_part_labels(labels, metadata.get("part_ignore_label"))
        ignored = PART_IGNORE if is_part_map else ignore_label(metadata)
        masks, classes = semantic_masks(labels, NoOpTransform(), ignored)
        classes = classes - is_part_map
        background = background_of(metadata)
        masks, classes = masks[classes != background], classes[classes != background]
    expressions = [
        ExpressionTargets(entry["expression"], tuple(entry["targets"]))
        for entry in record.get("expressions", ())
    ]
    vocabulary = None if expressions else dataset_vocabulary(metadata)
    return AnnotationView(image, _segments(path, masks, classes, vocabulary), expressions)


def _segments(
    path: str, masks: NDArray[Any], classes: NDArray[Any], vocabulary: Vocabulary | None
) -> list[Segment]:
    if vocabulary is None:
        return [Segment(f"object {i}", "thing", mask, 1.0) for i, mask in enumerate(masks, 1)]
    segments = []
    for mask, index in zip(masks, classes, strict=True):
        if not 0 <= index < len(vocabulary.classes):
            raise InputError(
                f"{path}: an object has the class index {index}, but the data set has "
                f"{len(vocabulary.classes)} classes"
            )
        entry = vocabulary.classes[index]
        segments.append(Segment(entry.name, entry.kind, mask, 1.0))
    return segments


def _objects_with_parts(path: str, size: tuple[int, int], metadata: Metadata) -> list[Segment]:
    """Return objects and stuff of a panoptic parts map, each followed by its parts."""
    labels = read_label_map(path)
    require_map_size(path, labels.shape[:2], size)
    try:
        decoded = decode_uids(labels)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    segments = []
    for part_class in metadata.part_pq_classes:
        class_mask = np.isin(decoded.classes, part_class.numbers)
        kind = "thing" if part_class.thing else "stuff"
        for object_number in np.unique(decoded.objects[class_mask]):
            mask = class_mask & (decoded.objects == object_number)
            segments.append(Segment(part_class.name, kind, mask, 1.0))
            for index, name in enumerate(part_class.part_names, 1):
                numbers = [part for part, target in part_class.parts.items() if target == index]
                part_mask = mask & np.isin(decoded.parts, numbers)
                if part_mask.any():
                    segments.append(Segment(f"{part_class.name} {name}", "part", part_mask, 1.0))
    return segments
