"""Reading images of every common kind as RGB, and the size that they are resized to."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


# What Pillow raises at damaged files, from its many readers.
DAMAGED = (OSError, SyntaxError, EOFError, ValueError, TypeError, KeyError, struct.error)


class ImageError(ValueError):
    """An image that cannot be used; the message names it."""


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file the way a viewer shows it.

    EXIF rotation is applied; grey, palette, CMYK and 16-bit images become 8-bit RGB; transparent
    areas become white.

    Args:
        path: any file that Pillow reads; of an animation the first frame counts.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if the file is not an image, is damaged, or is too large to open.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such image")
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: this is not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: the image has too many pixels ({error})") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except DAMAGED as error:
        raise ImageError(f"{path}: the image is damaged or cut short ({error})") from error


def as_rgb(image: Image.Image | np.ndarray) -> np.ndarray:
    """A PIL image or an array as uint8 [H, W, 3], RGB.

    Args:
        image: a PIL image of any mode (its EXIF rotation is applied), or an array [H, W],
            [H, W, 1], [H, W, 3] or [H, W, 4] (the fourth channel is opacity): uint8, uint16, bool,
            or floats in 0..1.

    Raises:
        ImageError: if the array has another shape or type, or is empty.
    """
    if isinstance(image, np.ndarray):
        return _rgb_of_array(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BIT_MODES:
        grey = np.asarray(image).astype(np.int64)
        return _grey_to_rgb((np.clip(grey, 0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        return _grey_to_rgb(_bytes_of_floats(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def resized_shape(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Size after scaling the shorter side to `shortest`, unless the longer passes `longest`.

    The aspect is kept but for rounding, and no side falls below one pixel.

    Returns:
        (height, width) in pixels.
    """
    scale = shortest / min(height, width)
    if max(height, width) * scale > longest:
        scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _rgb_of_array(array: np.ndarray) -> np.ndarray:
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
        array = _bytes_of_floats(array)
    elif array.dtype != np.uint8:
        raise ImageError(
            f"an array of {array.dtype} is not an image; expected uint8, uint16, bool, or floats "
            "in 0..1"
        )
    if array.shape[2] == 1:
        return _grey_to_rgb(array[:, :, 0])
    return _on_white(array) if array.shape[2] == 4 else np.ascontiguousarray(array)


def _bytes_of_floats(array: np.ndarray) -> np.ndarray:
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise ImageError(
            "an image of floats must be in 0..1, and this one ranges from "
            f"{array.min():.6g} to {array.max():.6g}"
        )
    return (array * 255 + 0.5).astype(np.uint8)


def _grey_to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    opacity = rgba[:, :, 3:].astype(np.uint16)
    colour = rgba[:, :, :3].astype(np.uint16)
    return ((colour * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
