"""From questions to groups of images that the model takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from grser.data.group_sampling import Questions
from hipie.data.dataset_mappers.annotations import decode_mask
from hipie.data.dataset_mappers.image_loading import as_tensor, read_record_image
from hipie.data.dataset_mappers.saliency import read_saliency
from hipie.data.dataset_mappers.text_flip import mirrored_words
from hipie.data.dataset_mappers.transforms import draw_change, plain_resize

logger = logging.getLogger(__name__)
KEPT = ("file_name", "height", "width", "image_id")


@dataclass(frozen=True)
class Sizes:
    """How images are resized; see Detectron2's INPUT and `hipie.config`."""

    shortest: tuple[int, ...]
    longest: int
    square: int
    image_format: str
    mirror: float = 0.0


class TrainingGroups:
    """Draws a group for a question.

    The number of positives is drawn from 1 to `most_positives`, as far as there are as many; the
    rest are negatives. Where images are too few, some come twice. A mirror is the whole group's,
    since the words are; each image's scale is its own.

    Args:
        questions: what the data set asks; items are those of `asked`.
        sizes: how images are resized.
        images: in a group.
        most_positives: see above.
        negatives: groups have negatives.
        skip_broken: leave out an image that cannot be read, with a warning.
    """

    def __init__(
        self,
        questions: Questions,
        sizes: Sizes,
        *,
        pictures: int = 8,
        most_positives: int = 6,
        negatives: bool = True,
        skip_broken: bool = False,
    ) -> None:
        if pictures < 1 or most_positives < 1:
            raise ValueError(
                "MODEL.GRSER.TRAIN.IMAGES and MOST_POSITIVES have to be at least 1, and are "
                f"{pictures} and {most_positives}"
            )
        self.questions = questions
        self.sizes = sizes
        self.pictures = pictures
        self.most_positives = most_positives
        self.negatives = negatives
        self.skip_broken = skip_broken

    def __call__(self, question: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """A group: `images` with `image` and `target`, and `expression`.

        Raises:
            ValueError: naming the file of an image that cannot be read, unless such are left out;
                if none is left, naming the last.
        """
        rng = np.random.default_rng(list(seed))
        mirrored = bool(rng.random() < self.sizes.mirror)
        drawn = self._draw(rng, question)
        images = _read_all(
            drawn, lambda one: self._image(rng, *one, mirrored=mirrored), self.skip_broken
        )
        words = question["expression"]
        return {
            "images": images,
            "expression": mirrored_words(words) if mirrored else words,
            "height": images[0]["height"],
            "width": images[0]["width"],
        }

    def _draw(
        self, rng: np.random.Generator, question: dict[str, Any]
    ) -> list[tuple[int, list[int] | None]]:
        """Images and what is meant in each (None: nothing), in random order."""
        lacking = question["lacking"]
        lacking = lacking if isinstance(lacking, list) else self.questions.absent[lacking]
        shown = question["shown"]
        positives = self.pictures
        if self.negatives and len(lacking):
            most = min(self.most_positives, max(self.pictures - 1, 1), len(shown))
            positives = int(rng.integers(1, most + 1))
        drawn = [shown[i] for i in _some(rng, len(shown), positives)]
        left = self.pictures - len(drawn)
        drawn += [(int(lacking[i]), None) for i in _some(rng, len(lacking), left)] if left else []
        return [drawn[i] for i in rng.permutation(len(drawn))]

    def _image(
        self, rng: np.random.Generator, number: int, meant: list[int] | None, *, mirrored: bool
    ) -> dict[str, Any]:
        record, sizes = self.questions.pictures[number], self.sizes
        image = read_record_image(record)
        change = draw_change(
            rng,
            *image.shape[:2],
            shortest=sizes.shortest,
            longest=sizes.longest,
            mirror=float(mirrored),
            square=sizes.square,
        ).transform
        target = change.apply_segmentation(target_mask(record, meant))
        return {
            **{key: record[key] for key in KEPT if key in record},
            "image": as_tensor(change.apply_image(image), sizes.image_format),
            "target": torch.from_numpy(np.array(target, dtype=np.uint8)),
        }


class AskedGroups:
    """Reads all images of a group at test, in order.

    Args:
        sizes: how images are resized.
        skip_broken: leave out an image that cannot be read, with a warning.
    """

    def __init__(self, sizes: Sizes, *, skip_broken: bool = False) -> None:
        self.sizes = sizes
        self.skip_broken = skip_broken

    def __call__(self, group: dict[str, Any]) -> dict[str, Any]:
        """The group with `image` in each of its `images`.

        Raises:
            ValueError: see `TrainingGroups`.
        """
        images = _read_all(group["images"], self._image, self.skip_broken)
        sides = {key: images[0][key] for key in ("height", "width")}
        return {**group, "images": images, **sides}

    def _image(self, record: dict[str, Any]) -> dict[str, Any]:
        image, sizes = read_record_image(record), self.sizes
        resize = plain_resize(*image.shape[:2], sizes.shortest[0], sizes.longest, sizes.square)
        kept = {key: record[key] for key in KEPT}
        return {**kept, "image": as_tensor(resize.apply_image(image), sizes.image_format)}


def target_mask(record: dict[str, Any], meant: list[int] | None) -> np.ndarray:
    """uint8 [H, W] of 0 and 1: the union of what is meant; None means nothing."""
    height, width = record["height"], record["width"]
    target = np.zeros((height, width), dtype=np.uint8)
    if meant is None:
        return target
    if "saliency_file_name" in record:
        mask = read_saliency(record["saliency_file_name"]).astype(np.uint8)
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    for place in meant:
        target |= decode_mask(record["annotations"][place]["segmentation"], height, width)
    return target


def _some(rng: np.random.Generator, count: int, wanted: int) -> np.ndarray:
    """`wanted` of `count` places, each once before any comes again; none of none."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([rng.permutation(count) for _ in range(-(-wanted // count))])[:wanted]


def _read_all(
    asked: Sequence[Any], read: Callable[[Any], dict[str, Any]], skip_broken: bool
) -> list[dict[str, Any]]:
    images = []
    for number, one in enumerate(asked):
        try:
            images.append(read(one))
        except (ValueError, OSError) as error:
            if not skip_broken or (not images and number == len(asked) - 1):
                raise
            logger.warning("Left out of its group: %s", " ".join(str(error).split()))
    return images
