"""From an image with expressions to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hipie.data.dataset_mappers.annotations import as_instances, decode_mask
from hipie.data.dataset_mappers.image_loading import as_tensor, read_record_image
from hipie.data.dataset_mappers.text_flip import mirrored_words
from hipie.data.dataset_mappers.transforms import draw_change, plain_resize


class ReferringMapper:
    """Maps an image with expressions to HIPIE's input dict, task "referring".

    A record has `file_name`, `height`, `width`, `image_id`, `expressions` (dicts with `expression`,
    and `targets`: positions in `annotations`) and `annotations` (COCO).

    In training a few expressions are drawn, at most one for an object as long as there are others;
    objects of class k of `instances` are what expression k describes: exactly one, or with
    `any_targets` several or none. At test all expressions come, in order. Images are resized and
    mirrored, never cropped, so that "the largest" and "the second" stay true; a mirror swaps left
    and right in the words.

    Args:
        training: draw an augmentation and expressions, and add `instances`.
        shortest: lengths of the shorter side to choose from (at test: the first).
        longest: the longer side is at most this, pixels.
        expressions: how many expressions a training item has at most.
        image_format: "RGB" or "BGR".
        square: side of the square that images are resized to; 0 keeps their shape.
        mirror: how often a training image is mirrored, 0..1.
        any_targets: train also with expressions that describe several objects, or none.
    """

    def __init__(
        self,
        *,
        training: bool,
        shortest: Sequence[int],
        longest: int,
        expressions: int = 4,
        image_format: str = "RGB",
        square: int = 0,
        mirror: float = 0.5,
        any_targets: bool = False,
    ) -> None:
        self.training = training
        self.shortest = tuple(shortest)
        self.longest = longest
        self.expressions = expressions
        self.image_format = image_format
        self.square = square
        self.mirror = mirror
        self.any_targets = any_targets

    def __call__(self, record: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Read and map one image.

        Raises:
            ValueError: naming the file, if the image cannot be read, its size is not the
                record's, or (in training) no expression can be used.
        """
        image = read_record_image(record)
        item = {key: record[key] for key in ("file_name", "height", "width", "image_id")}
        if "group_id" in record:
            item["group_id"] = record["group_id"]
        item["task"] = "referring"
        height, width = image.shape[:2]
        if not self.training:
            resize = plain_resize(height, width, self.shortest[0], self.longest, self.square)
            item["image"] = as_tensor(resize.apply_image(image), self.image_format)
            item["expressions"] = [one["expression"] for one in record["expressions"]]
            return item
        rng = np.random.default_rng(list(seed))
        chosen = self._draw_expressions(rng, record)
        change = draw_change(
            rng,
            height,
            width,
            shortest=self.shortest,
            longest=self.longest,
            mirror=self.mirror,
            square=self.square,
        )
        item["image"] = as_tensor(change.transform.apply_image(image), self.image_format)
        words = [one["expression"] for one in chosen]
        item["expressions"] = [mirrored_words(w) for w in words] if change.mirrored else words
        pairs = [(k, target) for k, one in enumerate(chosen) for target in one["targets"]]
        masks = np.zeros((len(pairs), *item["image"].shape[1:]), dtype=bool)
        for row, (_, target) in enumerate(pairs):
            mask = decode_mask(record["annotations"][target]["segmentation"], height, width)
            masks[row] = change.transform.apply_segmentation(mask)
        classes = np.array([k for k, _ in pairs], dtype=np.int64)
        item["instances"] = as_instances(masks, classes)
        return item

    def _draw_expressions(
        self, rng: np.random.Generator, record: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Expressions that can be used, in random order, those of new objects first."""
        usable = [
            one for one in record["expressions"] if self.any_targets or len(one["targets"]) == 1
        ]
        if not usable:
            wanted = "it has no expression"
            if record["expressions"]:
                wanted = "none of its expressions describes exactly one object"
            raise ValueError(f"{record['file_name']}: {wanted}")
        first: list[dict[str, Any]] = []
        later: list[dict[str, Any]] = []
        seen: set[tuple[int, ...]] = set()
        for i in rng.permutation(len(usable)):
            target = tuple(sorted(usable[i]["targets"]))
            (later if target in seen else first).append(usable[i])
            seen.add(target)
        return (first + later)[: self.expressions]
