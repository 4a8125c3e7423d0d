"""What a user shows: an image with a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hipie.data.image_io import as_rgb, read_image

Picture = str | Path | Image.Image | np.ndarray


class ExampleError(ValueError):
    """Examples that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Example:
    """An image in which something is masked.

    Attributes:
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] bool, not empty.
        label: what it is.
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
    def read(cls, image: Picture, mask: Picture, label: str = "object") -> Example:
        """From files, PIL images or arrays; a mask is what is not black in its image."""
        if not isinstance(mask, np.ndarray) or mask.dtype != bool:
            mask = read_picture(mask).any(axis=2)
        return cls(read_picture(image), mask, label)


def read_picture(image: Picture) -> np.ndarray:
    """uint8 [H, W, 3] RGB."""
    return read_image(image) if isinstance(image, str | Path) else as_rgb(image)


def require_examples(examples: Sequence[Any]) -> None:
    """Refuse an empty list."""
    if not examples:
        raise ExampleError("there is no example: show at least one image with a mask")


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape[1::-1])) if array.ndim > 1 else f"{list(array.shape)}"
