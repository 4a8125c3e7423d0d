"""Base class of the dataset mappers of images with texts that name positions in the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hipie.data.dataset_mappers.transforms import (
    Augmentation,
    flip_text,
    resize_transform,
    sample_augmentation,
)
from hipie.data.image_io import image_to_tensor, read_record_image


class TextImageMapper:
    """Read images, and resize and flip them, but never crop them.

    Without a crop "the largest" and "the second" stay true; a flip swaps left and right in the
    texts.

    Args:
        training: sample an augmentation.
        min_sizes: lengths of the shorter side to sample from (at test: the first), pixels.
        max_size: limit of the longer side, pixels.
        image_format: "RGB" or "BGR".
        max_pixels: of an image; larger ones are refused before they are decoded.
        square_size: side of a square that images are resized to; 0 keeps the aspect ratio.
        flip_prob: probability of a horizontal flip in training.
    """

    def __init__(
        self,
        *,
        training: bool,
        min_sizes: Sequence[int],
        max_size: int,
        image_format: str = "RGB",
        max_pixels: int | None = None,
        square_size: int = 0,
        flip_prob: float = 0.5,
    ) -> None:
        self.training = training
        self.min_sizes, self.max_size, self.square_size = tuple(min_sizes), max_size, square_size
        self.image_format, self.max_pixels = image_format, max_pixels
        self.flip_prob = flip_prob

    def read(self, record: dict[str, Any]) -> tuple[NDArray[Any], dict[str, Any]]:
        """Read the image of a record.

        Returns:
            uint8 [H, W, 3] RGB, and `file_name`, `height`, `width` and `image_id`.

        Raises:
            ValueError: naming the file, if it cannot be read or its size is not the record's.
        """
        image = read_record_image(record, self.max_pixels)
        return image, {key: record[key] for key in ("file_name", "height", "width", "image_id")}

    def resized(self, image: NDArray[Any]) -> Tensor:
        """Resize an image for inference: uint8 [3, h, w]."""
        height, width = image.shape[:2]
        resize = resize_transform(height, width, self.min_sizes[0], self.max_size, self.square_size)
        return image_to_tensor(resize.apply_image(image), self.image_format)

    def augmented(
        self, rng: np.random.Generator, image: NDArray[Any]
    ) -> tuple[Tensor, Augmentation]:
        """Augment an image for training: uint8 [3, h, w], and what was applied."""
        height, width = image.shape[:2]
        augmentation = sample_augmentation(
            rng,
            height,
            width,
            min_sizes=self.min_sizes,
            max_size=self.max_size,
            flip_prob=self.flip_prob,
            square_size=self.square_size,
        )
        pixels = augmentation.transform.apply_image(image)
        return image_to_tensor(pixels, self.image_format), augmentation


def augmented_text(text: str, augmentation: Augmentation) -> str:
    """Swap left and right in a text if its image was flipped."""
    return flip_text(text) if augmentation.flipped else text
