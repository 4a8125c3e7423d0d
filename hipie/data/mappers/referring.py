"""From a picture with sentences to what the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hipie.data.mappers.augmentation import draw_change, plain_resize
from hipie.data.mappers.mirrored_words import mirrored_words
from hipie.data.mappers.objects import as_instances, decode_mask
from hipie.data.mappers.pixels import as_tensor, read_record_image


class ReferringMapper:
    """Maps a picture with sentences to HIPIE's input dict, task "referring".

    A record has `file_name`, `height`, `width`, `image_id`, `sentences` (dicts with `sentence`,
    and `targets`: positions in `annotations`) and `annotations` (COCO).

    In training a few sentences that describe exactly one object are drawn, at most one for an
    object as long as there are others; object k of `instances` is what sentence k describes. At
    test all sentences come, in order. Pictures are resized and mirrored, never cropped, so that
    "the largest" and "the second" stay true; a mirror swaps left and right in the words.

    Args:
        training: draw an augmentation and sentences, and add `instances`.
        shortest: lengths of the shorter side to choose from (at test: the first).
        longest: the longer side is at most this, pixels.
        sentences: how many sentences a training item has at most.
        image_format: "RGB" or "BGR".
    """

    def __init__(
        self,
        *,
        training: bool,
        shortest: Sequence[int],
        longest: int,
        sentences: int = 4,
        image_format: str = "RGB",
    ) -> None:
        self.training = training
        self.shortest = tuple(shortest)
        self.longest = longest
        self.sentences = sentences
        self.image_format = image_format

    def __call__(self, record: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Read and map one picture.

        Raises:
            ValueError: naming the file, if the picture cannot be read, its size is not the
                record's, or (in training) no sentence describes exactly one object.
        """
        image = read_record_image(record)
        item = {key: record[key] for key in ("file_name", "height", "width", "image_id")}
        item["task"] = "referring"
        height, width = image.shape[:2]
        if not self.training:
            resize = plain_resize(height, width, self.shortest[0], self.longest)
            item["image"] = as_tensor(resize.apply_image(image), self.image_format)
            item["expressions"] = [one["sentence"] for one in record["sentences"]]
            return item
        rng = np.random.default_rng(list(seed))
        chosen = self._draw_sentences(rng, record)
        change = draw_change(rng, height, width, shortest=self.shortest, longest=self.longest)
        item["image"] = as_tensor(change.transform.apply_image(image), self.image_format)
        words = [one["sentence"] for one in chosen]
        item["expressions"] = [mirrored_words(w) for w in words] if change.mirrored else words
        masks = [
            change.transform.apply_segmentation(
                decode_mask(record["annotations"][one["targets"][0]]["segmentation"], height, width)
            ).astype(bool)
            for one in chosen
        ]
        item["instances"] = as_instances(np.stack(masks), np.arange(len(chosen)))
        return item

    def _draw_sentences(
        self, rng: np.random.Generator, record: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Single-target sentences, in random order, those of new objects first."""
        usable = [one for one in record["sentences"] if len(one["targets"]) == 1]
        if not usable:
            raise ValueError(
                f"{record['file_name']}: none of its sentences describes exactly one object"
            )
        first: list[dict[str, Any]] = []
        later: list[dict[str, Any]] = []
        seen: set[int] = set()
        for i in rng.permutation(len(usable)):
            target = usable[i]["targets"][0]
            (later if target in seen else first).append(usable[i])
            seen.add(target)
        return (first + later)[: self.sentences]
