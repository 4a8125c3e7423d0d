"""Dataset mapper of referring expression data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hipie.data.dataset_mappers.annotations import decode_mask, masks_to_instances
from hipie.data.dataset_mappers.text_image import TextImageMapper, augmented_text
from hipie.errors import InputError


class ReferringDatasetMapper(TextImageMapper):
    """Map an image with referring expressions to HIPIE's input dict, task "referring".

    A record has `file_name`, `height`, `width`, `image_id`, `annotations` (COCO) and `expressions`:
    dicts with `expression` and `targets` (positions in `annotations`).

    In training a few expressions are sampled, with different targets as long as there are any. The
    objects of class k in `instances` are the targets of expression k: exactly one, or any number
    with `generalized`. At test all expressions are returned in order. Images are resized and
    flipped but never cropped, which keeps "the largest" and "the second" true; a flip swaps left
    and right in the expressions.

    Args:
        max_expressions: largest number of expressions of a training item.
        generalized: also train with expressions of several targets or none.
        with_masks: read the masks of the targets in training; without them, items have no
            `instances`, and annotations need no `segmentation`.
        options: of `TextImageMapper`.
    """

    def __init__(
        self,
        *,
        max_expressions: int = 4,
        generalized: bool = False,
        with_masks: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.max_expressions = max_expressions
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
        image, item = self.read(record)
        if "group_id" in record:
            item["group_id"] = record["group_id"]
        item["task"] = "referring"
        if not self.training:
            item["image"] = self.resized(image)
            item["expressions"] = [entry["expression"] for entry in record["expressions"]]
            return item
        rng = np.random.default_rng(list(seed))
        sampled = self._sample_expressions(rng, record)
        item["image"], augmentation = self.augmented(rng, image)
        item["expressions"] = [
            augmented_text(entry["expression"], augmentation) for entry in sampled
        ]
        if not self.with_masks:
            return item
        pairs = [(k, target) for k, entry in enumerate(sampled) for target in entry["targets"]]
        masks = np.zeros((len(pairs), *item["image"].shape[1:]), dtype=bool)
        for row, (_, target) in enumerate(pairs):
            mask = decode_mask(record["annotations"][target]["segmentation"], *image.shape[:2])
            masks[row] = augmentation.transform.apply_segmentation(mask)
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
