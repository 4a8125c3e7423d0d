"""Support examples: images with a mask of the object that is looked for in query images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hipie.data.image_io import as_rgb, read_image
from hipie.errors import InputError

ImageSource = str | Path | Image.Image | np.ndarray


class ExampleError(InputError):
    """Invalid support examples; the message names the example and the fault."""


@dataclass(frozen=True)
class Example:
    """Support example: an image and the mask of an object in it.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] bool, not empty.
        label: class name of the object.

    Raises:
        ExampleError: if the mask is empty or differs from the image in size.
    """

    image: np.ndarray
    mask: np.ndarray
    label: str = "object"

    def __post_init__(self) -> None:
        if self.mask.shape != self.image.shape[:2]:
            raise ExampleError(
                f"an example's mask is {_size(self.mask)}, and its image is {_size(self.image)}"
            )
        if not self.mask.any():
            raise ExampleError(f'the mask of an example of "{self.label}" is empty')

    @classmethod
    def read(cls, image: ImageSource, mask: ImageSource, label: str = "object") -> Example:
        """Read an example from files, PIL images or arrays.

        Args:
            image: path, PIL image or array.
            mask: the same, non-black pixels are the object; or a bool array [H, W].
            label: class name of the object.
        """
        if isinstance(mask, np.ndarray) and mask.dtype == bool:
            return cls(to_rgb_array(image), mask, label)
        return cls(to_rgb_array(image), to_rgb_array(mask).any(axis=2), label)


def to_rgb_array(image: ImageSource) -> np.ndarray:
    """Return an image from a path, PIL image or array as uint8 [H, W, 3] RGB."""
    return read_image(image) if isinstance(image, str | Path) else as_rgb(image)


def require_examples(examples: Sequence[Any]) -> None:
    """Raise `ExampleError` if there are no examples."""
    if not examples:
        raise ExampleError("there are no examples; at least one image with a mask is needed")


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape[1::-1])) if array.ndim > 1 else f"{list(array.shape)}"
