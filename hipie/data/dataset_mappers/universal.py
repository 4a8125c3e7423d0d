"""Dataset mapper of data sets with a vocabulary: things, stuff and parts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from numpy.typing import NDArray

from hipie.data.broken_images import BROKEN_ERRORS
from hipie.data.dataset_mappers.annotation_reader import (
    AnnotationReader,
    ObjectMasks,
    is_semantic,
    objects_to_instances,
)
from hipie.data.dataset_mappers.color import distort_colors
from hipie.data.dataset_mappers.copy_paste import (
    CopyPaste,
    paste_objects,
    sample_offset,
    select_pasted,
)
from hipie.data.dataset_mappers.strong_augmentation import strongly_augmented
from hipie.data.dataset_mappers.transforms import (
    Augmentation,
    LargeScaleJitter,
    resize_transform,
    sample_augmentation,
)
from hipie.data.dataset_mappers.weak_objects import WeakAnnotations, weak_annotations
from hipie.data.image_io import (
    image_to_tensor,
    read_record_image,
)
from hipie.data.negative_sampling import sample_vocabulary, vocabulary_subset
from hipie.data.supervision import NONE, TAGS, WeakLabels
from hipie.vocabularies.vocabulary import Vocabulary

# Streams of the random numbers of an item.
PASTE, COLOR, STRONG = 1, 2, 3


class UniversalDatasetMapper:
    """Map a record with panoptic, instance, semantic or part annotations to HIPIE's input dict.

    A record is Detectron2's, with `file_name`, `height`, `width`, `image_id` and the first of:
    `part_seg_file_name`; `pan_seg_file_name` and `segments_info`; `annotations` (COCO);
    `sem_seg_file_name`, where every class is one object. `task` is "parts" for the first of them,
    "semantic" for the last one if the vocabulary has no things, else "detection". Records of
    federated data sets have `neg_category_ids`, the classes that are verified to be absent (see
    `coco_instances.federated_categories`): only those are added to a training caption.

    Args:
        vocabulary: all classes, in the order of the records' contiguous class indices.
        training: sample an augmentation and a vocabulary, and add `instances`.
        min_sizes: lengths of the shorter side to sample from (at test: the first), pixels.
        max_size: limit of the longer side, pixels.
        image_format: "RGB" or "BGR".
        max_pixels: of an image; larger ones are refused before they are decoded.
        token_counts: number of tokens of "name. " of every class; required in training.
        max_tokens: tokens that a training caption may have.
        negative_candidates: classes that a training caption may name although absent; None = all.
        min_part_area: smaller connected components of parts are ignored, pixels.
        jitter: large-scale jitter; None = off.
        flip: "horizontal", "vertical" or "none": the flip of half of the training images.
        max_objects: sample this many objects of an image with more; 0 = no limit.
        ignore_label: the value of semantic maps that is not a class.
        background: index of the class of pixels that have none of the others, see
            `background_index`; None = there is no such class.
        ignore_unlabelled: whether training items have `ignored`, the pixels of unknown class.
        part_ignore_label: see `offset_part_labels`.
        held_out: classes of no prompt and no object, whose pixels are unlabelled in training.
        copy_paste: objects that are pasted into training images; None = off.
        color_distortion: whether the colours of training images are distorted.
        weak_labels: what is kept of the annotations in training; None = everything.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        training: bool,
        min_sizes: Sequence[int],
        max_size: int,
        image_format: str = "RGB",
        max_pixels: int | None = None,
        token_counts: Sequence[int] = (),
        max_tokens: int = 512,
        negative_candidates: Sequence[int] | None = None,
        min_part_area: int = 100,
        jitter: LargeScaleJitter | None = None,
        flip: str = "horizontal",
        max_objects: int = 0,
        ignore_label: int = 255,
        background: int | None = None,
        ignore_unlabelled: bool = False,
        part_ignore_label: int | None = None,
        held_out: Collection[int] = (),
        copy_paste: CopyPaste | None = None,
        color_distortion: bool = False,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.background = background
        self._reader = AnnotationReader(
            len(vocabulary.classes),
            min_part_area,
            ignore_label,
            ignore_unlabelled,
            part_ignore_label,
            max_pixels,
            frozenset(held_out),
        )
        self.training = training
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.image_format = image_format
        self.max_pixels = max_pixels
        self.token_counts = tuple(token_counts)
        self.max_tokens = max_tokens
        indices = [index for index in range(len(vocabulary.classes)) if index != background]
        self.prompt_vocabulary = vocabulary_subset(vocabulary, indices, flipped=False)
        self.negative_candidates = tuple(
            index
            for index in (indices if negative_candidates is None else negative_candidates)
            if index != background and index not in held_out
        )
        self.jitter = jitter
        self.flip = flip
        self.max_objects = max_objects
        self.copy_paste = copy_paste
        self.color_distortion = color_distortion
        self.weak_labels = weak_labels

    def __call__(self, record: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Read and map one image.

        Args:
            record: an entry of the data set; it is not changed.
            seed: determines all random numbers.

        Returns:
            `file_name`, `height`, `width`, `image_id`, `task`, `image` (uint8 [3, h, w]),
            `vocabulary`, and in training `instances` (`gt_masks`, `gt_boxes`, `gt_classes` as
            positions in `vocabulary`, and further fields of `objects_to_instances`). `vocabulary`
            has no background class; at test `background` is true where the data set has one. In
            training there may be `ignored` (uint8 [h, w], see `hipie.structures.IgnoredPixels`),
            of sets without objects `tags` (positions of the image's classes) or `unlabelled` with
            `teacher_image`, the image before a strong augmentation.

        Raises:
            ValueError: naming the file, if the image or its labels cannot be read, or their sizes
                differ.
        """
        image = read_record_image(record, self.max_pixels)
        item = {key: record[key] for key in ("file_name", "height", "width", "image_id")}
        item["task"] = self._task(record)
        height, width = image.shape[:2]
        if not self.training:
            resize = resize_transform(height, width, self.min_sizes[0], self.max_size)
            item["image"] = image_to_tensor(resize.apply_image(image), self.image_format)
            item["vocabulary"] = self.prompt_vocabulary
            item["background"] = self.background is not None
            return item
        rng = np.random.default_rng(list(seed))
        augmentation, objects = self._augment(rng, record, height, width)
        pixels = augmentation.transform.apply_image(image)
        # Streams of their own: other random numbers do not depend on these options.
        if self.copy_paste is not None:
            paste_rng = np.random.default_rng([*seed, PASTE])
            pixels, objects = self._paste(
                paste_rng, self.copy_paste, pixels, objects, augmentation.flipped
            )
        if self.color_distortion:
            pixels = distort_colors(np.random.default_rng([*seed, COLOR]), pixels)
        item["image"] = image_to_tensor(pixels, self.image_format)
        if objects.ignored is not None:
            item["ignored"] = torch.from_numpy(np.ascontiguousarray(objects.ignored))
        instances = objects_to_instances(objects)
        tags = self._tags(record)
        candidates = self._caption_candidates(record, instances)
        instances = self._sample_objects(rng, instances)
        present = set(instances.gt_classes.tolist()).union(tags or ())
        item["vocabulary"], positions = self._sample_caption(
            rng, present, candidates, augmentation.flipped
        )
        classes = positions[instances.gt_classes.numpy()]
        item["instances"] = instances[np.flatnonzero(classes >= 0)]
        item["instances"].gt_classes = torch.from_numpy(classes[classes >= 0])
        if tags is not None:
            places = positions[sorted(tags)] if tags else np.zeros(0, np.int64)
            item["tags"] = torch.from_numpy(places[places >= 0])
        if self.weak_labels is not None and self.weak_labels.kind == NONE:
            item["unlabelled"] = True
            item["teacher_image"] = item["image"]
            strong = strongly_augmented(pixels, (*seed, STRONG))
            item["image"] = image_to_tensor(strong, self.image_format)
        return item

    def _tags(self, record: dict[str, Any]) -> set[int] | None:
        """Return the classes of an image that is annotated by tags; None for others."""
        if self.weak_labels is None or self.weak_labels.kind != TAGS:
            return None
        if "tags" in record:
            tags = set(record["tags"])
        else:
            objects = self._reader.read(record, T.NoOpTransform())
            tags = {int(index) for index in objects.classes[objects.masks.any(axis=(1, 2))]}
        return tags.difference(self._reader.held_out, {self.background})

    def _task(self, record: dict[str, Any]) -> str:
        if "part_seg_file_name" in record:
            return "parts"
        has_objects = "pan_seg_file_name" in record or "annotations" in record
        return "detection" if has_objects or any(self.vocabulary.is_thing) else "semantic"

    def _paste(
        self,
        rng: np.random.Generator,
        settings: CopyPaste,
        pixels: NDArray[Any],
        objects: ObjectMasks,
        flipped: bool,
    ) -> tuple[NDArray[Any], ObjectMasks]:
        """Paste objects of another image of the set, flipped as this one, with a probability."""
        if rng.random() >= settings.probability:
            return pixels, objects
        record = settings.records[int(rng.integers(len(settings.records)))]
        try:
            image = read_record_image(record, self.max_pixels)
            height, width = image.shape[:2]
            augmentation, source = self._augment(rng, record, height, width, float(flipped))
        except BROKEN_ERRORS:
            if not settings.skip_broken:
                raise
            return pixels, objects
        selected = select_pasted(rng, source.classes, self.vocabulary.kinds)
        size, target = source.masks.shape[1:], pixels.shape[:2]
        return paste_objects(
            pixels,
            objects,
            augmentation.transform.apply_image(image),
            source.select(selected),
            sample_offset(rng, (size[0], size[1]), (target[0], target[1])),
            join_classes=is_semantic(record),
        )

    def _augment(
        self,
        rng: np.random.Generator,
        record: dict[str, Any],
        height: int,
        width: int,
        flip_prob: float = 0.5,
    ) -> tuple[Augmentation, ObjectMasks]:
        """Sample an augmentation and apply it; crops without any object are sampled again."""
        options: dict[str, Any] = {
            "min_sizes": self.min_sizes,
            "max_size": self.max_size,
            "flip": self.flip,
            "flip_prob": flip_prob,
        }
        augmentation = sample_augmentation(rng, height, width, jitter=self.jitter, **options)
        objects = self._objects(record, augmentation.transform)
        if augmentation.cropped and not objects.masks.any():
            augmentation = sample_augmentation(rng, height, width, jitter=None, **options)
            objects = self._objects(record, augmentation.transform)
        return augmentation, objects

    def _sample_objects(self, rng: np.random.Generator, instances: Instances) -> Instances:
        if not 0 < self.max_objects < len(instances):
            return instances
        sampled = rng.choice(len(instances), size=self.max_objects, replace=False)
        return instances[np.sort(sampled)]

    def _caption_candidates(self, record: dict[str, Any], instances: Instances) -> list[int]:
        """Return the classes that may be added to the caption without an object of them."""
        absent = record.get("neg_category_ids")
        if absent is not None:
            return sorted(set(absent).intersection(self.negative_candidates))
        if 0 < self.max_objects < len(instances):
            present = set(instances.gt_classes.tolist())
            return [index for index in self.negative_candidates if index not in present]
        return list(self.negative_candidates)

    def _objects(self, record: dict[str, Any], transform: T.Transform) -> ObjectMasks:
        """Read the objects to learn from."""
        if self.weak_labels is None:
            objects = self._reader.read(record, transform)
        else:
            objects = self._weak_objects(record, transform, self.weak_labels)
        if self.background is None:
            return objects
        return objects.select(objects.classes != self.background)

    def _weak_objects(
        self, record: dict[str, Any], transform: T.Transform, labels: WeakLabels
    ) -> ObjectMasks:
        """Read what is annotated of the objects, before the transform."""
        if not labels.has_objects:
            size = (record["height"], record["width"])
            shape = transform.apply_segmentation(np.zeros(size, np.uint8)).shape
            classes = np.zeros(0, np.int64)
            nothing = WeakAnnotations(classes, np.zeros((0, 0, 3), np.float32))
            return ObjectMasks(np.zeros((0, *shape), dtype=bool), classes, None, nothing)
        objects = self._reader.read(record, T.NoOpTransform())
        objects = objects.select(objects.masks.any(axis=(1, 2)))
        ignored = None
        if objects.ignored is not None:
            ignored = self._reader.read(record, transform).ignored
        masks, weak = weak_annotations(
            objects.masks, objects.annotations, transform, labels, record["image_id"]
        )
        return ObjectMasks(masks, objects.classes, ignored, weak, objects.annotations)

    def read_objects(
        self, record: dict[str, Any], transform: T.Transform
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Read the masks of a record's objects; those without a pixel are included.

        Args:
            record: see the class.
            transform: applied to all masks.

        Returns:
            (bool [N, h, w], class indices int64 [N]). Crowds are not objects.

        Raises:
            ValueError: naming the file, if it cannot be read, has another size than the image, or
                has a class that is not in the vocabulary.
        """
        objects = self._reader.read(record, transform)
        return objects.masks, objects.classes

    def _sample_caption(
        self,
        rng: np.random.Generator,
        present: set[int],
        candidates: Sequence[int],
        flipped: bool,
    ) -> tuple[Vocabulary, NDArray[np.int64]]:
        """Sample the caption's classes, and return the position in it of every class, or -1."""
        selected = sample_vocabulary(rng, present, candidates, self.token_counts, self.max_tokens)
        positions = np.full(len(self.vocabulary.classes), -1, dtype=np.int64)
        positions[selected] = np.arange(len(selected))
        return vocabulary_subset(self.vocabulary, selected, flipped), positions
