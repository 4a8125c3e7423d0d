"""Support examples: images with a mask of the object that is looked for in query images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from hipie.data.image_io import (
    SIXTEEN_BIT_MODES,
    ImageLike,
    image_file_name,
    open_image,
    to_rgb_array,
)
from hipie.errors import InputError, describe
from hipie.logs import get_logger

_logger = get_logger(__name__)


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
        if self.mask.dtype != bool:
            raise ExampleError(
                f"an example's mask is bool [H, W], not {self.mask.dtype}; see Example.read"
            )
        if not isinstance(self.label, str):
            raise ExampleError(f"the label of an example is a string, not {describe(self.label)}")
        if self.mask.shape != self.image.shape[:2]:
            raise ExampleError(
                f"an example's mask is {_size(self.mask)}, and its image is {_size(self.image)}"
            )
        if not self.mask.any():
            raise ExampleError(f'the mask of an example of "{self.label}" is empty')

    @property
    def share(self) -> float:
        """Fraction of the image's pixels that are the object."""
        return float(self.mask.mean())

    @classmethod
    def read(cls, image: ImageLike, mask: ImageLike, label: str = "object") -> Example:
        """Read an example from files, PIL images or arrays.

        Args:
            image: see `hipie.data.image_io.to_rgb_array`.
            mask: see `read_mask`.
            label: class name of the object.
        """
        return cls(to_rgb_array(image), read_mask(mask), label)

    @classmethod
    def parse(cls, example: Any) -> Example:
        """Return an example, read from (image, mask) or (image, mask, label) if it is a sequence.

        Raises:
            ExampleError: for anything else.
        """
        if isinstance(example, Example):
            return example
        if not isinstance(example, tuple | list) or len(example) not in (2, 3):
            raise ExampleError(
                "an example is (image, mask) or (image, mask, label), not a value of type "
                f"{type(example).__name__}"
            )
        return cls.read(*example)


def read_mask(mask: ImageLike) -> np.ndarray:
    """Read the mask of an object, where soft edges are thresholded at half.

    Args:
        mask: a file, PIL image, array or tensor. What the object is depends on its kind:

            * alpha that is not the same everywhere: alpha of at least half;
            * grey values: at least half of the range (128 of 255, 0.5 of floats); nonzero where no
              value of an integer map reaches it, as in maps of small ids;
            * colours: at least half of the brightest, by the largest channel;
            * a palette of colours: whatever is not black.

    Returns:
        [H, W] bool. Where values are neither 0 nor the largest, a warning has the object's share.

    Raises:
        ExampleError: if it has another number of dimensions.
        ImageError: if it cannot be read.
    """
    name = image_file_name(mask) or "a mask"
    if isinstance(mask, str | os.PathLike):
        with open_image(mask, "mask") as image:
            values, half = _mask_values(image)
    elif isinstance(mask, Image.Image):
        values, half = _mask_values(mask)
    else:
        is_array = isinstance(mask, np.ndarray | torch.Tensor)
        values, half = _array_values(np.asarray(mask) if is_array else to_rgb_array(mask))
    selected = values >= half
    if ((values > 0) & (values < values.max(initial=0))).any():
        _logger.warning(
            "%s has soft edges or several levels; the object is what reaches half: "
            "%s of %s pixels (%.1f %%)",
            name,
            f"{int(selected.sum()):,}",
            f"{selected.size:,}",
            100 * selected.mean(),
        )
    return selected


def _mask_values(image: Image.Image) -> tuple[np.ndarray, float]:
    """Values [H, W] of a mask image, and the smallest value of the object."""
    image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "transparency" in image.info:
        return _array_values(np.asarray(image.convert("RGBA")))
    if image.mode == "P":
        colours = np.asarray(image.convert("RGB"))
        if _is_grey(colours):
            return _array_values(colours)
        return colours.any(axis=2).astype(np.uint8), 1
    has_values = image.mode in ("1", "L", "F", *SIXTEEN_BIT_MODES)
    return _array_values(np.asarray(image if has_values else image.convert("RGB")))


def _array_values(array: np.ndarray) -> tuple[np.ndarray, float]:
    """Values [H, W] of a mask array, and the smallest value of the object."""
    if array.ndim == 3 and array.shape[2] in (2, 4):
        alpha = array[:, :, -1]
        if alpha.size and alpha.min() < alpha.max():
            return _array_values(alpha)
        array = array[:, :, :-1]
    if array.ndim == 3 and array.shape[2] in (1, 3):
        grey = array.max(axis=2)
        if not _is_grey(array):
            return grey, max(float(grey.max(initial=0)) / 2, np.finfo(float).tiny)
        array = grey
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ExampleError(
            f"a mask of shape {array.shape} and type {array.dtype} cannot be read; expected [H, W]"
        )
    if array.dtype == bool:
        return array, True
    if not np.isfinite(array).all():
        raise ExampleError("a mask has values that are not finite")
    high = float(array.max(initial=0))
    if array.dtype.kind == "f":
        return array, 0.5 if high <= 1 else 127.5
    half = 32768 if high > 255 else 128
    return array, half if high >= half else 1


def _is_grey(colours: np.ndarray) -> bool:
    return bool((colours == colours[:, :, :1]).all())


def require_examples(examples: Sequence[Any]) -> None:
    """Raise `ExampleError` if there are no examples."""
    if not examples:
        raise ExampleError("there are no examples; at least one image with a mask is needed")


def _size(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape[1::-1])) if array.ndim > 1 else f"{list(array.shape)}"
