"""From a record of a data set with a vocabulary to what the model takes: things, stuff, parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from detectron2.structures import Instances

from hipie.data.dataset_mappers.annotations import (
    annotated_objects,
    as_instances,
    panoptic_objects,
    part_objects,
    read_labels,
    semantic_objects,
)
from hipie.data.dataset_mappers.image_loading import as_tensor, read_record_image
from hipie.data.dataset_mappers.transforms import Change, Jitter, draw_change, plain_resize
from hipie.data.negative_sampling import draw_vocabulary, sub_vocabulary
from hipie.vocabularies.vocabulary import Vocabulary


class UniversalMapper:
    """Maps a record with objects (panoptic, instances, classes or parts) to HIPIE's input dict.

    A record is Detectron2's, with `file_name`, `height`, `width`, `image_id` and one of:
    `part_seg_file_name`; `pan_seg_file_name` and `segments_info`; `annotations` (COCO);
    `sem_seg_file_name`, where every class is one object. Which one it has, in this order, decides
    `task`: "parts" for the first, otherwise "detection". Where it has `neg_category_ids` (classes
    that are certainly absent, see `hipie.data.datasets.federated_annotations`), a training caption names only
    those beside what is there.

    Args:
        vocabulary: all classes, in the order of the record's contiguous class indices.
        training: draw an augmentation and a vocabulary, and add `instances`.
        shortest: lengths of the shorter side to choose from (at test: the first).
        longest: the longer side is at most this, pixels.
        image_format: "RGB" or "BGR".
        pieces: tokens of "name. " of every class; needed in training.
        max_pieces: tokens a training caption may have.
        candidates: classes that a training caption may name although absent; None = all.
        min_part_area: smaller pieces of parts are no objects, pixels.
        jitter: scale jitter and crop; None = off.
        max_objects: of an image with more, so many are drawn; 0 = all.
        ignore_label: the value of semantic maps that is no class.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        training: bool,
        shortest: Sequence[int],
        longest: int,
        image_format: str = "RGB",
        pieces: Sequence[int] = (),
        max_pieces: int = 512,
        candidates: Sequence[int] | None = None,
        min_part_area: int = 100,
        jitter: Jitter | None = None,
        max_objects: int = 0,
        ignore_label: int = 255,
    ) -> None:
        self.vocabulary = vocabulary
        self.training = training
        self.shortest = tuple(shortest)
        self.longest = longest
        self.image_format = image_format
        self.pieces = tuple(pieces)
        self.max_pieces = max_pieces
        self.candidates = tuple(
            range(len(vocabulary.classes)) if candidates is None else candidates
        )
        self.min_part_area = min_part_area
        self.jitter = jitter
        self.max_objects = max_objects
        self.ignore_label = ignore_label

    def __call__(self, record: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Read and map one image.

        Args:
            record: one entry of the data set; it is not changed.
            seed: decides everything that is drawn.

        Raises:
            ValueError: naming the file, if the image or its labels cannot be read, or their
                sizes disagree.
        """
        image = read_record_image(record)
        item = {key: record[key] for key in ("file_name", "height", "width", "image_id")}
        item["task"] = "parts" if "part_seg_file_name" in record else "detection"
        height, width = image.shape[:2]
        if not self.training:
            resize = plain_resize(height, width, self.shortest[0], self.longest)
            item["image"] = as_tensor(resize.apply_image(image), self.image_format)
            item["vocabulary"] = self.vocabulary
            return item
        rng = np.random.default_rng(list(seed))
        change, instances = self._draw_view(rng, record, height, width)
        item["image"] = as_tensor(change.transform.apply_image(image), self.image_format)
        candidates = self._candidates(record, instances)
        instances = self._draw_objects(rng, instances)
        item["vocabulary"], item["instances"] = self._name(
            rng, instances, candidates, change.mirrored
        )
        return item

    def _draw_view(
        self, rng: np.random.Generator, record: dict[str, Any], height: int, width: int
    ) -> tuple[Change, Instances]:
        """A change of the image and its objects; a crop that loses every object is not used."""
        settings = {"shortest": self.shortest, "longest": self.longest}
        change = draw_change(rng, height, width, jitter=self.jitter, **settings)
        instances = self._objects(record, change.transform)
        if change.cropped and len(instances) == 0:
            change = draw_change(rng, height, width, jitter=None, **settings)
            instances = self._objects(record, change.transform)
        return change, instances

    def _draw_objects(self, rng: np.random.Generator, instances: Instances) -> Instances:
        if not 0 < self.max_objects < len(instances):
            return instances
        kept = rng.choice(len(instances), size=self.max_objects, replace=False)
        return instances[np.sort(kept)]

    def _candidates(self, record: dict[str, Any], instances: Instances) -> list[int]:
        """Classes that the caption may name though no object that is drawn is of them."""
        absent = record.get("neg_category_ids")
        if absent is not None:
            return sorted(set(absent).intersection(self.candidates))
        if 0 < self.max_objects < len(instances):
            shown = set(instances.gt_classes.tolist())
            return [one for one in self.candidates if one not in shown]
        return list(self.candidates)

    def _objects(self, record: dict[str, Any], transform: T.Transform) -> Instances:
        if "part_seg_file_name" in record:
            labels = read_labels(record["part_seg_file_name"])
            masks, classes = part_objects(labels, transform, self.min_part_area)
        elif "pan_seg_file_name" in record:
            colours = read_labels(record["pan_seg_file_name"])
            masks, classes = panoptic_objects(colours, record["segments_info"], transform)
        elif "annotations" in record:
            masks, classes = annotated_objects(
                record["annotations"], record["height"], record["width"], transform
            )
        else:
            labels = read_labels(record["sem_seg_file_name"])
            masks, classes = semantic_objects(labels, transform, self.ignore_label)
        return as_instances(masks, classes)

    def _name(
        self,
        rng: np.random.Generator,
        instances: Instances,
        candidates: Sequence[int],
        mirrored: bool,
    ) -> tuple[Vocabulary, Instances]:
        """Draw the caption, and number the objects by it."""
        present = set(instances.gt_classes.tolist())
        named = draw_vocabulary(rng, present, candidates, self.pieces, self.max_pieces)
        place = np.full(len(self.vocabulary.classes), -1, dtype=np.int64)
        place[named] = np.arange(len(named))
        classes = place[instances.gt_classes.numpy()]
        kept = instances[np.flatnonzero(classes >= 0)]
        kept.gt_classes = kept.gt_classes.new_tensor(classes[classes >= 0])
        return sub_vocabulary(self.vocabulary, named, mirrored), kept
