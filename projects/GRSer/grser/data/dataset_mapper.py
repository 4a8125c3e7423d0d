"""Dataset mappers that read groups of images for GRSer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode

from grser.data.group_sampling import GroupDataset
from hipie.data.build import expression_flip_prob
from hipie.data.dataset_mappers.annotations import decode_mask
from hipie.data.dataset_mappers.transforms import (
    flip_text,
    resize_transform,
    sample_augmentation,
    training_sizes,
)
from hipie.data.image_io import image_to_tensor, read_record_image, read_saliency_mask
from hipie.errors import InputError
from hipie.logs import get_logger

logger = get_logger(__name__)
RECORD_KEYS = ("file_name", "height", "width", "image_id")


@dataclass(frozen=True)
class ImageConfig:
    """Resizing and flipping of images; see Detectron2's INPUT and `hipie.config`.

    Attributes:
        min_sizes: lengths of the shorter side, one of which is sampled in training.
        max_size: maximum length of the longer side.
        square: side of the square that images are resized to; 0 keeps the aspect ratio.
        image_format: "RGB" or "BGR".
        flip_prob: probability of a horizontal flip of all images of a group.
        max_pixels: of an image; larger ones are refused before they are decoded.
    """

    min_sizes: tuple[int, ...]
    max_size: int
    square: int
    image_format: str
    flip_prob: float = 0.0
    max_pixels: int | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, *, training: bool) -> ImageConfig:
        """Read the keys of `INPUT`."""
        keys = cfg.INPUT
        return cls(
            min_sizes=training_sizes(keys.MIN_SIZE_TRAIN, keys.MIN_SIZE_TRAIN_SAMPLING)
            if training
            else (keys.MIN_SIZE_TEST,),
            max_size=keys.MAX_SIZE_TRAIN if training else keys.MAX_SIZE_TEST,
            square=keys.SQUARE_SIZE,
            image_format=keys.FORMAT,
            flip_prob=expression_flip_prob(cfg),
            max_pixels=keys.MAX_PIXELS,
        )


class GroupTrainingMapper:
    """Sample and read a group of images for an expression.

    The number of positive images is uniform in 1..`max_positives`, limited by the number there is;
    the rest are negative. If there are too few images, some are repeated. A horizontal flip applies
    to all images of a group and to its expression; each image has its own scale.

    Args:
        dataset: the images; the mapper's arguments are its samples.
        image_config: resizing and flipping.
        images_per_group: number of images.
        max_positives: maximum number of positive images if there are negative ones.
        negatives: sample negative images.
        skip_broken: leave out images that cannot be read, with a warning.

    Raises:
        ValueError: if a group would have no image or no positive image.
    """

    def __init__(
        self,
        dataset: GroupDataset,
        image_config: ImageConfig,
        *,
        images_per_group: int = 8,
        max_positives: int = 6,
        negatives: bool = True,
        skip_broken: bool = False,
    ) -> None:
        if images_per_group < 1 or max_positives < 1:
            raise InputError(
                "MODEL.GRSER.TRAIN.IMAGES_PER_GROUP and MAX_POSITIVES have to be at least 1, and "
                f"are {images_per_group} and {max_positives}"
            )
        self.dataset = dataset
        self.image_config = image_config
        self.images_per_group = images_per_group
        self.max_positives = max_positives
        self.negatives = negatives
        self.skip_broken = skip_broken

    def __call__(self, sample: dict[str, Any], seed: Sequence[int] = (0,)) -> dict[str, Any]:
        """Return a group: `images` with `image` and `target`, and `expression`.

        Raises:
            ValueError: for an image that cannot be read, naming its file. With `skip_broken` only
                if no image is left.
        """
        rng = np.random.default_rng(list(seed))
        flip = bool(rng.random() < self.image_config.flip_prob)
        images = _read_images(
            self._sample_images(rng, sample),
            lambda choice: self._read(rng, *choice, flip=flip),
            self.skip_broken,
        )
        expression = sample["expression"]
        return {
            "images": images,
            "expression": flip_text(expression) if flip else expression,
            "height": images[0]["height"],
            "width": images[0]["width"],
        }

    def _sample_images(
        self, rng: np.random.Generator, sample: dict[str, Any]
    ) -> list[tuple[int, list[int] | None]]:
        """Indices of images and of the target's annotations (None: negative), in random order."""
        negatives = sample["negatives"]
        if not isinstance(negatives, list):
            negatives = self.dataset.negative_pools[negatives]
        positives = sample["positives"]
        num_positives = self.images_per_group
        if self.negatives and len(negatives):
            limit = min(self.max_positives, max(self.images_per_group - 1, 1), len(positives))
            num_positives = int(rng.integers(1, limit + 1))
        images = [positives[i] for i in _choose(rng, len(positives), num_positives)]
        num_negatives = self.images_per_group - len(images)
        if num_negatives:
            images += [
                (int(negatives[i]), None) for i in _choose(rng, len(negatives), num_negatives)
            ]
        return [images[i] for i in rng.permutation(len(images))]

    def _read(
        self, rng: np.random.Generator, index: int, annotations: list[int] | None, *, flip: bool
    ) -> dict[str, Any]:
        record, config = self.dataset.images[index], self.image_config
        image = read_record_image(record, config.max_pixels)
        transform = sample_augmentation(
            rng,
            *image.shape[:2],
            min_sizes=config.min_sizes,
            max_size=config.max_size,
            flip_prob=float(flip),
            square_size=config.square,
        ).transform
        mask = target_mask(record, annotations, config.max_pixels)
        target = transform.apply_segmentation(mask)
        return {
            **{key: record[key] for key in RECORD_KEYS if key in record},
            "image": image_to_tensor(transform.apply_image(image), config.image_format),
            "target": torch.from_numpy(np.array(target, dtype=np.uint8)),
        }


class GroupTestMapper:
    """Read all images of a group, in order.

    Args:
        image_config: resizing.
        skip_broken: leave out images that cannot be read, with a warning.
    """

    def __init__(self, image_config: ImageConfig, *, skip_broken: bool = False) -> None:
        self.image_config = image_config
        self.skip_broken = skip_broken

    def __call__(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the group with `image` in each of its `images`.

        Raises:
            ValueError: as `GroupTrainingMapper`.
        """
        images = _read_images(group["images"], self._read, self.skip_broken)
        size = {key: images[0][key] for key in ("height", "width")}
        return {**group, "images": images, **size}

    def _read(self, record: dict[str, Any]) -> dict[str, Any]:
        config = self.image_config
        image = read_record_image(record, config.max_pixels)
        height, width = image.shape[:2]
        resize = resize_transform(
            height, width, config.min_sizes[0], config.max_size, config.square
        )
        return {
            **{key: record[key] for key in RECORD_KEYS},
            "image": image_to_tensor(resize.apply_image(image), config.image_format),
        }


def target_mask(
    record: dict[str, Any], annotations: list[int] | None, max_pixels: int | None = None
) -> np.ndarray:
    """Union of the masks of an image's annotations.

    Args:
        record: with `annotations`, or with `saliency_file_name`, whose mask is the target.
        annotations: indices of the target's annotations; None for a negative image.
        max_pixels: of a mask's file, see `open_image`.

    Returns:
        uint8 [H, W] of 0 and 1.
    """
    height, width = record["height"], record["width"]
    target = np.zeros((height, width), dtype=np.uint8)
    if annotations is None:
        return target
    if "saliency_file_name" in record:
        mask = read_saliency_mask(record["saliency_file_name"], max_pixels).astype(np.uint8)
        return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    for index in annotations:
        target |= decode_mask(record["annotations"][index]["segmentation"], height, width)
    return target


def _choose(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Sample `size` of `count` indices; each occurs once before any is repeated."""
    if not count:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([rng.permutation(count) for _ in range(-(-size // count))])[:size]


def _read_images(
    choices: Sequence[Any], read: Callable[[Any], dict[str, Any]], skip_broken: bool
) -> list[dict[str, Any]]:
    images: list[dict[str, Any]] = []
    for index, choice in enumerate(choices):
        try:
            images.append(read(choice))
        except (ValueError, OSError) as error:
            if not skip_broken or (not images and index == len(choices) - 1):
                raise
            logger.warning("Image left out of its group: %s", " ".join(str(error).split()))
    return images
