"""Objects and ignored pixels of a record, in any annotation format, after a transform."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from numpy.typing import NDArray

from hipie.data.annotation_maps import read_class_map, read_panoptic_map, require_segments
from hipie.data.dataset_mappers.annotations import (
    instance_masks,
    masks_to_instances,
    panoptic_masks,
    part_masks,
    semantic_masks,
)
from hipie.data.dataset_mappers.ignored_pixels import (
    ignored_annotations,
    ignored_labels,
    ignored_panoptic,
)
from hipie.data.dataset_mappers.weak_objects import WeakAnnotations
from hipie.data.image_io import require_map_size
from hipie.data.io.partial_annotations import SCORE
from hipie.data.label_values import PART_IGNORE, offset_part_labels
from hipie.errors import InputError


@dataclass(frozen=True)
class ObjectMasks:
    """Objects of an image.

    Attributes:
        masks: bool [N, h, w].
        classes: class indices int64 [N].
        ignored: uint8 [h, w], see `hipie.structures.IgnoredPixels`; None = not read.
        weak: what is annotated of the objects, whose masks are filled boxes; None = the masks.
        annotations: entries of the objects, of records in COCO's format.
    """

    masks: NDArray[Any]
    classes: NDArray[Any]
    ignored: NDArray[np.uint8] | None = None
    weak: WeakAnnotations | None = None
    annotations: tuple[Mapping[str, Any], ...] | None = None

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """[N] confidences of the annotations; None = all are certain."""
        entries = self.annotations or ()
        if not any(SCORE in entry for entry in entries):
            return None
        return np.array([entry.get(SCORE, 1.0) for entry in entries], dtype=np.float32)

    def select(self, index: NDArray[Any]) -> ObjectMasks:
        """Some of the objects, by index or by a mask of bool."""
        weak = self.weak and self.weak.select(index)
        entries = self.annotations
        if entries is not None:
            entries = tuple(entries[i] for i in np.arange(len(self.classes))[index])
        return ObjectMasks(self.masks[index], self.classes[index], self.ignored, weak, entries)


@dataclass(frozen=True)
class AnnotationReader:
    """Reader of the records that `UniversalDatasetMapper` takes.

    Attributes:
        num_classes: of the vocabulary.
        min_part_area: smaller connected components of parts are left out, pixels.
        ignore_label: the value of semantic maps that is not a class.
        ignore_unlabelled: whether ignored pixels are read.
        part_ignore_label: see `offset_part_labels`.
        max_pixels: of a map; larger ones are refused before they are decoded.
        held_out: classes that are read as if they had no annotation.
    """

    num_classes: int
    min_part_area: int
    ignore_label: int
    ignore_unlabelled: bool = False
    part_ignore_label: int | None = None
    max_pixels: int | None = None
    held_out: frozenset[int] = frozenset()

    def read(self, record: dict[str, Any], transform: T.Transform) -> ObjectMasks:
        """Read the objects of a record; those without a pixel are included, crowds are not.

        Args:
            record: see `UniversalDatasetMapper`.
            transform: applied to all masks.

        Raises:
            ValueError: naming the file, if it cannot be read, has another size than the image, or
                has a class that is not in the vocabulary.
        """
        size = (record["height"], record["width"])
        ignored: NDArray[np.uint8] | None = None
        entries: tuple[Mapping[str, Any], ...] | None = None
        if "part_seg_file_name" in record:
            path = record["part_seg_file_name"]
            labels = offset_part_labels(
                _read_labels(path, size, self.max_pixels), self.part_ignore_label
            )
            labels = self._without_held_out(labels, PART_IGNORE, offset=1)
            masks, classes = part_masks(labels, transform, self.min_part_area)
            if self.ignore_unlabelled:
                ignored = ignored_labels(labels, transform, PART_IGNORE)
        elif "pan_seg_file_name" in record:
            path = record["pan_seg_file_name"]
            segments, _ = without_classes(record["segments_info"], self.held_out)
            colours = read_panoptic_map(path, self.max_pixels)
            require_map_size(path, colours.shape[:2], size)
            masks, classes = panoptic_masks(colours, segments, transform)
            if len(masks) and not masks.any():
                require_segments(path, colours, segments)
            if self.ignore_unlabelled:
                ignored = ignored_panoptic(colours, segments, transform)
        elif "annotations" in record:
            path = record["file_name"]
            annotations, removed = without_classes(record["annotations"], self.held_out)
            masks, classes = instance_masks(annotations, *size, transform)
            entries = tuple(entry for entry in annotations if not entry.get("iscrowd", 0))
            if self.ignore_unlabelled:
                ignored = ignored_annotations(annotations, *size, transform, removed)
        else:
            path = record["sem_seg_file_name"]
            labels = _read_labels(path, size, self.max_pixels)
            labels = self._without_held_out(labels, self.ignore_label)
            masks, classes = semantic_masks(labels, transform, self.ignore_label)
            if self.ignore_unlabelled:
                ignored = ignored_labels(labels, transform, self.ignore_label)
        if len(classes) and not 0 <= classes.min() <= classes.max() < self.num_classes:
            wrong = classes[(classes < 0) | (classes >= self.num_classes)][0]
            raise InputError(
                f"{path}: an object has the class index {wrong}, but the data set has "
                f"{self.num_classes} classes"
            )
        return ObjectMasks(masks, classes, ignored, annotations=entries)

    def _without_held_out(
        self, labels: NDArray[Any], ignore_label: int, offset: int = 0
    ) -> NDArray[Any]:
        """Return a label map in which held-out classes have no annotation."""
        if not self.held_out:
            return labels
        values = [index + offset for index in self.held_out]
        return np.where(np.isin(labels, values), labels.dtype.type(ignore_label), labels)


def objects_to_instances(objects: ObjectMasks) -> Instances:
    """Convert objects to Detectron2's `Instances` for training; those without a pixel are dropped.

    Returns:
        `gt_masks`, `gt_boxes` (absolute xyxy), `gt_classes`; unless all have masks, the fields of
        `WeakAnnotations.add_to`; and `gt_scores`, where annotations have a confidence.
    """
    objects = objects.select(objects.masks.any(axis=(1, 2)))
    instances = masks_to_instances(objects.masks, objects.classes)
    if objects.weak is not None:
        objects.weak.add_to(instances)
    if objects.scores is not None:
        instances.gt_scores = torch.from_numpy(objects.scores)
    return instances


def is_semantic(record: dict[str, Any]) -> bool:
    """Whether the objects of a record are the classes of a semantic map."""
    others = ("part_seg_file_name", "pan_seg_file_name", "annotations")
    return not any(key in record for key in others)


def _read_labels(path: str, size: tuple[int, int], max_pixels: int | None) -> NDArray[Any]:
    labels = read_class_map(path, max_pixels)
    require_map_size(path, labels.shape[:2], size)
    return labels


def without_classes(
    annotations: Sequence[Mapping[str, Any]], classes: Collection[int]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Divide annotations or segments by `category_id`.

    Returns:
        Those of other classes, and those of `classes`.
    """
    others: list[Mapping[str, Any]] = []
    removed: list[Mapping[str, Any]] = []
    for entry in annotations:
        (removed if entry["category_id"] in classes else others).append(entry)
    return others, removed
