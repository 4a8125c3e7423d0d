"""Readers of images, label maps and masks; conversions to RGB arrays and tensors."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hipie.errors import InputError, MissingFileError

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
SALIENCY_THRESHOLD = 128
"""Grey values above it belong to the object, as in `pysodmetrics`."""

# Exceptions of Pillow's readers on damaged files.
PILLOW_ERRORS = (OSError, SyntaxError, EOFError, ValueError, TypeError, KeyError, struct.error)


class ImageError(InputError):
    """An image that cannot be used; the message names it."""


def read_image(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an image file as RGB.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit images are converted to 8-bit RGB;
    transparent pixels are blended with white.

    Args:
        path: any file that Pillow reads; of an animation the first frame is read.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if the file is not an image, is damaged, or is too large to open.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such image")
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: this is not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: the image has too many pixels ({error})") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except PILLOW_ERRORS as error:
        raise ImageError(f"{path}: the image is damaged or cut short ({error})") from error


def read_label_map(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a label map (PNG, TIFF) with its stored values.

    Returns:
        uint8 [H, W, 3] for a colour image, else integers [H, W].

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(image)
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: this label map cannot be read ({error})") from error


def read_saliency_mask(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read a mask of a co-saliency data set: one bit, grey, colour or palette.

    Returns:
        bool [H, W].

    Raises:
        ValueError: if the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L")) > SALIENCY_THRESHOLD
    except (*PILLOW_ERRORS, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: this mask cannot be read ({error})") from error


def read_record_image(record: dict[str, Any]) -> NDArray[Any]:
    """Read the image of a data set's record and check its size.

    Args:
        record: has `file_name`, `height` and `width`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ValueError: naming the file, if it cannot be read or has another size than the record.
    """
    image = read_image(record["file_name"])
    actual, expected = image.shape[:2], (record["height"], record["width"])
    if actual != expected:
        raise InputError(
            f"{record['file_name']}: the image has {actual[1]}x{actual[0]} pixels, but its "
            f"annotation has {expected[1]}x{expected[0]}"
        )
    return image


def image_to_tensor(image: NDArray[Any], image_format: str) -> torch.Tensor:
    """Convert an RGB image to a tensor.

    Args:
        image: uint8 [H, W, 3], RGB.
        image_format: "RGB" or "BGR", the channel order of the result.

    Returns:
        uint8 [3, H, W].
    """
    if image_format == "BGR":
        image = image[:, :, ::-1]
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def as_rgb(image: Image.Image | NDArray[Any]) -> NDArray[Any]:
    """Convert a PIL image or an array to uint8 [H, W, 3], RGB.

    Args:
        image: a PIL image of any mode (its EXIF orientation is applied), or an array [H, W],
            [H, W, 1], [H, W, 3] or [H, W, 4] (the fourth channel is alpha): uint8, uint16, bool,
            or floats in 0..1.

    Raises:
        ImageError: if the array has another shape or type, or is empty.
    """
    if isinstance(image, np.ndarray):
        return _array_to_rgb(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BIT_MODES:
        grey = np.asarray(image).astype(np.int64)
        return _grey_to_rgb((np.clip(grey, 0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        return _grey_to_rgb(_floats_to_bytes(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _blend_with_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def resized_shape(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Compute the size of an image after Detectron2's `ResizeShortestEdge`.

    The shorter side becomes `shortest`, or less where the longer one would exceed `longest`. The
    aspect ratio is kept up to rounding, and no side is shorter than one pixel.

    Returns:
        (height, width) in pixels.
    """
    scale = shortest / min(height, width)
    if max(height, width) * scale > longest:
        scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _array_to_rgb(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"an array of shape {array.shape} is not an image; expected [H, W], [H, W, 3] or "
            "[H, W, 4]"
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = (array // 257).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        array = _floats_to_bytes(array)
    elif array.dtype != np.uint8:
        raise ImageError(
            f"an array of {array.dtype} is not an image; expected uint8, uint16, bool, or floats "
            "in 0..1"
        )
    if array.shape[2] == 1:
        return _grey_to_rgb(array[:, :, 0])
    return _blend_with_white(array) if array.shape[2] == 4 else np.ascontiguousarray(array)


def _floats_to_bytes(array: NDArray[Any]) -> NDArray[Any]:
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ImageError(
            "an image of floats must be in 0..1, and this one ranges from "
            f"{array.min():.6g} to {array.max():.6g}"
        )
    return (array * 255 + 0.5).astype(np.uint8)


def _grey_to_rgb(grey: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _blend_with_white(rgba: NDArray[Any]) -> NDArray[Any]:
    opacity = rgba[:, :, 3:].astype(np.uint16)
    colour = rgba[:, :, :3].astype(np.uint16)
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
