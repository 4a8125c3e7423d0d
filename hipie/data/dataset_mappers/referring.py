"""Dataset mapper of referring expression data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hipie.data.dataset_mappers.annotations import decode_mask, masks_to_instances
from hipie.data.dataset_mappers.transforms import flip_text, resize_transform, sample_augmentation
from hipie.data.image_io import image_to_tensor, read_record_image
from hipie.errors import InputError


class ReferringDatasetMapper:
    """Map an image with referring expressions to HIPIE's input dict, task "referring".

    A record has `file_name`, `height`, `width`, `image_id`, `annotations` (COCO) and `expressions`:
    dicts with `expression` and `targets` (positions in `annotations`).

    In training a few expressions are sampled, with different targets as long as there are any. The
    objects of class k in `instances` are the targets of expression k: exactly one, or any number
    with `generalized`. At test all expressions are returned in order. Images are resized and
    flipped but never cropped, which keeps "the largest" and "the second" true; a flip swaps left
    and right in the expressions.

    Args:
        training: sample an augmentation and expressions, and add `instances`.
        min_sizes: lengths of the shorter side to sample from (at test: the first), pixels.
        max_size: limit of the longer side, pixels.
        max_expressions: largest number of expressions of a training item.
        image_format: "RGB" or "BGR".
        max_pixels: of an image; larger ones are refused before they are decoded.
        square_size: side of a square that images are resized to; 0 keeps the aspect ratio.
        flip_prob: probability of a horizontal flip in training.
        generalized: also train with expressions of several targets or none.
        with_masks: read the masks of the targets in training; without them, items have no
            `instances`, and annotations need no `segmentation`.
    """

    def __init__(
        self,
        *,
        training: bool,
        min_sizes: Sequence[int],
        max_size: int,
        max_expressions: int = 4,
        image_format: str = "RGB",
        max_pixels: int | None = None,
        square_size: int = 0,
        flip_prob: float = 0.5,
        generalized: bool = False,
        with_masks: bool = True,
    ) -> None:
        self.training = training
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.max_expressions = max_expressions
        self.image_format = image_format
        self.max_pixels = max_pixels
        self.square_size = square_size
        self.flip_prob = flip_prob
        self.generalized = generalized
        self.with_masks = with_masks

    def __call__(self, record: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Read and map one image.

        Args:
            record: an entry of the data set; it is not changed.
            seed: determines all random numbers.

        Returns:
            `file_name`, `height`, `width`, `image_id`, `task`, `image` (uint8 [3, h, w]),
            `expressions` (list of str), `group_id` where the record has one, and in training with
            masks `instances`.

        Raises:
            ValueError: naming the file, if the image cannot be read, its size is not the
                record's, or (in training) no expression can be used.
        """
        image = read_record_image(record, self.max_pixels)
        item = {key: record[key] for key in ("file_name", "height", "width", "image_id")}
        if "group_id" in record:
            item["group_id"] = record["group_id"]
        item["task"] = "referring"
        height, width = image.shape[:2]
        if not self.training:
            resize = resize_transform(
                height, width, self.min_sizes[0], self.max_size, self.square_size
            )
            item["image"] = image_to_tensor(resize.apply_image(image), self.image_format)
            item["expressions"] = [entry["expression"] for entry in record["expressions"]]
            return item
        rng = np.random.default_rng(list(seed))
        sampled = self._sample_expressions(rng, record)
        augmentation = sample_augmentation(
            rng,
            height,
            width,
            min_sizes=self.min_sizes,
            max_size=self.max_size,
            flip_prob=self.flip_prob,
            square_size=self.square_size,
        )
        transform = augmentation.transform
        item["image"] = image_to_tensor(transform.apply_image(image), self.image_format)
        texts = [entry["expression"] for entry in sampled]
        item["expressions"] = [flip_text(text) for text in texts] if augmentation.flipped else texts
        if not self.with_masks:
            return item
        pairs = [(k, target) for k, entry in enumerate(sampled) for target in entry["targets"]]
        masks = np.zeros((len(pairs), *item["image"].shape[1:]), dtype=bool)
        for row, (_, target) in enumerate(pairs):
            mask = decode_mask(record["annotations"][target]["segmentation"], height, width)
            masks[row] = transform.apply_segmentation(mask)
        classes = np.array([k for k, _ in pairs], dtype=np.int64)
        item["instances"] = masks_to_instances(masks, classes)
        return item

    def _sample_expressions(
        self, rng: np.random.Generator, record: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Sample usable expressions in random order, those with new targets first."""
        usable = [
            entry
            for entry in record["expressions"]
            if self.generalized or len(entry["targets"]) == 1
        ]
        if not usable:
            problem = "it has no expression"
            if record["expressions"]:
                problem = "none of its expressions describes exactly one object"
            raise InputError(f"{record['file_name']}: {problem}")
        distinct: list[dict[str, Any]] = []
        repeated: list[dict[str, Any]] = []
        used: set[tuple[int, ...]] = set()
        for i in rng.permutation(len(usable)):
            targets = tuple(sorted(usable[i]["targets"]))
            (repeated if targets in used else distinct).append(usable[i])
            used.add(targets)
        return (distinct + repeated)[: self.max_expressions]
