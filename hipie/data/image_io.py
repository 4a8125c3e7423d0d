"""Readers of images, label maps and masks; conversions to RGB arrays and tensors.

Files may come from strangers: only a list of formats is opened (Pillow would call Ghostscript for
an EPS that is named `.png`), only regular files, and the number of pixels in the header is limited
before anything is decoded.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from hipie.data.io.reading_rules import pixel_limit
from hipie.errors import InputError, MissingFileError, TooLargeError, cause_of
from hipie.logs import get_logger

ImageLike = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | NDArray[Any] | torch.Tensor

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif")
    + (".ppm", ".pgm", ".pbm", ".pnm")
)
FORMATS = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "AVIF")

SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
SALIENCY_THRESHOLD = 128
"""Grey values above it belong to the object, as in `pysodmetrics`."""

# Exceptions of Pillow's readers on damaged files.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
_READ_ERRORS = (*PILLOW_ERRORS, Image.DecompressionBombError)
# Rows that are converted at a time.
_STRIP = 256
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
# Value of the tag PhotometricInterpretation.
_YCBCR = 6
# Bytes at the beginning of a file from which its format is recognised.
_START = 64
# Grey values of a 16-bit file below it look black.
_DARK = 4096
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_OTHER_FORMATS = {
    b"ftypheic": "HEIC",
    b"ftypheix": "HEIC",
    b"ftypmif1": "HEIF",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"<svg": "SVG",
    b"<?xml": "SVG or XML",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}

_logger = get_logger(__name__)


class ImageError(InputError):
    """An image that cannot be used; the message names it."""


class TooManyPixelsError(ImageError, TooLargeError):
    """An image whose header has more pixels than are read."""


@contextmanager
def open_image(
    path: str | os.PathLike[str], kind: str = "image", max_pixels: int | None = None
) -> Iterator[Image.Image]:
    """Open an image file with Pillow, without decoding it.

    Args:
        path: a regular file in one of `FORMATS`; of an animation the first frame is read.
        kind: what the file is, for messages: "image", "label map", "mask".
        max_pixels: more are refused before anything is decoded; None: the limit of the rules
            that hold, `ReadingRules.max_pixels`.

    Yields:
        The image. Errors of decoding it inside the context become `ImageError`, too.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if it is a URL or a folder, of another format, damaged, or has too many pixels.
    """
    _require_file(path, kind)
    start = b""
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
        with _decoded(path, start, max_pixels) as image:
            yield image
    except _READ_ERRORS as error:
        raise _image_error(error, str(path), kind, start) from error


@contextmanager
def open_image_bytes(
    data: bytes, name: str, kind: str = "image", max_pixels: int | None = None
) -> Iterator[Image.Image]:
    """Open the bytes of an image file with Pillow, as `open_image` opens a file.

    Args:
        data: of a file in one of `FORMATS`.
        name: what messages call it.
        kind: see `open_image`.
        max_pixels: likewise.

    Yields:
        The image; see `open_image`.

    Raises:
        ImageError: see `open_image`.
    """
    start = data[:_START]
    try:
        with _decoded(BytesIO(data), start, max_pixels) as image:
            yield image
    except _READ_ERRORS as error:
        raise _image_error(error, name, kind, start) from error


def to_rgb_array(image: ImageLike, max_pixels: int | None = None) -> NDArray[Any]:
    """Read an image in any form that callers of the Python interface give.

    Args:
        image: a path; the bytes of an image file, or a file that is open for reading in binary
            mode; a PIL image; an array or a PIL image as for `as_rgb`; an RGB tensor [3, H, W],
            uint8, or float in 0..1.
        max_pixels: of a file and of bytes, see `open_image`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ImageError: saying what it is instead.
        FileNotFoundError: if there is no such file.
    """
    if image is None:
        raise ImageError(
            "the image is None, which cv2.imread returns for a file that it cannot read"
        )
    if isinstance(image, str | os.PathLike):
        return read_image(image, max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        return _bytes_to_rgb(bytes(image), "the bytes", max_pixels)
    if isinstance(image, torch.Tensor):
        return _tensor_to_rgb(image)
    if isinstance(image, np.ndarray):
        return as_rgb(image)
    try:
        if isinstance(image, Image.Image):
            return as_rgb(image)
        if hasattr(image, "read"):
            return _bytes_to_rgb(*_read_open_file(image), max_pixels)
    except _READ_ERRORS as error:
        raise _image_error(error, _name_of(image), "image") from error
    if isinstance(image, list | tuple):
        raise ImageError(
            f"an image of type {type(image).__name__} cannot be read; pass several images one by "
            "one, and rows of pixels as numpy.array(rows, dtype=numpy.uint8)"
        )
    raise ImageError(
        f"an image of type {type(image).__name__} cannot be read; expected a path, the bytes of a "
        "file, an open file, a PIL image, an RGB array [H, W, 3] or an RGB tensor [3, H, W]"
    )


def image_file_name(image: ImageLike) -> str:
    """Return the file that an image comes from: its path, or that of an open file; else ""."""
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    name = getattr(image, "filename", "") or getattr(image, "name", "")
    is_file = isinstance(image, Image.Image) or hasattr(image, "read")
    return name if is_file and isinstance(name, str) else ""


def read_image(path: str | os.PathLike[str], max_pixels: int | None = None) -> NDArray[Any]:
    """Read an image file as RGB.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit images are converted to 8-bit RGB;
    transparent pixels are blended with white.

    Args:
        path: see `open_image`.
        max_pixels: likewise.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        FileNotFoundError, ImageError: see `open_image`.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        return as_rgb(image)


def read_image_size(
    path: str | os.PathLike[str], max_pixels: int | None = None, *, decode: bool = True
) -> tuple[int, int]:
    """Read (height, width) of an image in pixels, after its EXIF orientation.

    Args:
        path: see `open_image`.
        max_pixels: likewise.
        decode: decode a PNG whose orientation may come after its pixels; False: read headers only.

    Raises:
        FileNotFoundError, ImageError: see `open_image`.
    """
    with open_image(path, max_pixels=max_pixels) as image:
        width, height = image.size
        if not decode and image.format == "PNG" and "exif" not in image.info:
            return height, width
        return (width, height) if _is_turned(image) else (height, width)


def require_complete(path: str | os.PathLike[str], max_pixels: int | None = None) -> None:
    """Check that a PNG or JPEG file is not cut short.

    Files that end as their format demands are not decoded.

    Raises:
        FileNotFoundError, ImageError: see `open_image`.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 12))
        end = file.read()
    complete = not start.startswith((_PNG_START, _JPEG_START))
    if not (complete or end.endswith((_PNG_END, _JPEG_END))):
        read_image(path, max_pixels)


def read_label_map(path: str | os.PathLike[str], max_pixels: int | None = None) -> NDArray[Any]:
    """Read a label map (PNG, TIFF) with its stored values.

    Returns:
        uint8 [H, W, 3] for a colour image, else integers [H, W].

    Raises:
        FileNotFoundError, ImageError: see `open_image`.
    """
    with open_image(path, "label map", max_pixels) as image:
        return stored_values(image)


def read_saliency_mask(path: str | os.PathLike[str], max_pixels: int | None = None) -> NDArray[Any]:
    """Read a mask of a co-saliency data set: one bit, grey, colour or palette.

    Returns:
        bool [H, W].

    Raises:
        FileNotFoundError, ImageError: see `open_image`.
    """
    with open_image(path, "mask", max_pixels) as image:
        return by_strips(image, lambda strip: np.asarray(strip.convert("L")) > SALIENCY_THRESHOLD)


def by_strips(image: Image.Image, convert: Callable[[Image.Image], NDArray[Any]]) -> NDArray[Any]:
    """Convert an image to an array strip by strip, so that no second copy of it is needed.

    Args:
        image: of any mode; decoded as a whole, by Pillow.
        convert: returns the array [h, w, ...] of a part of the image, of h rows.

    Returns:
        The parts below each other, [H, W, ...], in an array of its own.
    """
    width, height = image.size
    result: NDArray[Any] | None = None
    for top in range(0, height, _STRIP):
        bottom = min(top + _STRIP, height)
        strip = convert(image.crop((0, top, width, bottom)))
        if result is None:
            result = np.empty((height, *strip.shape[1:]), strip.dtype)
        result[top:bottom] = strip
    return np.array(image) if result is None else result


def stored_values(image: Image.Image) -> NDArray[Any]:
    """Return the values of an image as Pillow decodes them: [H, W], or [H, W, channels]."""
    return by_strips(image, np.asarray)


def array_strips(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Iterate over an array by some rows at a time, from the top."""
    for top in range(0, len(array), _STRIP):
        yield array[top : top + _STRIP]


def distinct_values(array: NDArray[Any]) -> set[int]:
    """Return the values of an array of integers, which is sorted some rows at a time."""
    values: set[int] = set()
    for strip in array_strips(array):
        values.update(np.unique(strip).tolist())
    return values


def read_record_image(record: dict[str, Any], max_pixels: int | None = None) -> NDArray[Any]:
    """Read the image of a data set's record and check its size.

    Args:
        record: has `file_name`, `height` and `width`.
        max_pixels: see `open_image`.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ValueError: naming the file, if it cannot be read or has another size than the record.
    """
    image = read_image(record["file_name"], max_pixels)
    require_size(record["file_name"], image.shape[:2], (record["height"], record["width"]))
    return image


def require_size(path: str, actual: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Check the (height, width) of an image against those of its annotation.

    Raises:
        InputError: naming the file, both sizes, and an EXIF orientation that explains them.
    """
    if actual == expected:
        return
    reason = ""
    if actual == expected[::-1]:
        # Its size is known, and was allowed when it was read.
        with open_image(path, max_pixels=actual[0] * actual[1]) as image:
            if _is_turned(image):
                reason = (
                    " (the image's EXIF orientation turns it, and the annotation was made for the "
                    "image as it is stored)"
                )
    raise InputError(
        f"{path}: the image has {actual[1]}x{actual[0]} pixels, but its annotation has "
        f"{expected[1]}x{expected[0]}{reason}"
    )


def require_map_size(path: str, actual: tuple[int, ...], image_size: tuple[int, ...]) -> None:
    """Check the (height, width) of a label map against those of its image.

    Raises:
        ImageError: naming the map and both sizes.
    """
    if tuple(actual) != tuple(image_size):
        raise ImageError(
            f"{path}: the map has {actual[1]}x{actual[0]} pixels, its image "
            f"{image_size[1]}x{image_size[0]} pixels"
        )


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
    bits = _significant_bits(image)
    name = getattr(image, "filename", "") or "the image"
    if _orientation(image) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in SIXTEEN_BIT_MODES:
        return _grey_to_rgb(_integers_to_bytes(stored_values(image), bits, name))
    if image.mode == "F":
        return _grey_to_rgb(_floats_to_bytes(stored_values(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return by_strips(image, lambda strip: _blend_with_white(np.asarray(strip.convert("RGBA"))))
    return by_strips(image, lambda strip: np.asarray(strip.convert("RGB")))


def resized_shape(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Compute the size of an image after Detectron2's `ResizeShortestEdge`.

    The shorter side becomes `shortest`, or less where the longer one would exceed `longest`. The
    aspect ratio is kept up to rounding, and no side is shorter than one pixel. With `shortest` 0
    the size stays as it is, whatever `longest` is.

    Returns:
        (height, width) in pixels.
    """
    if shortest == 0:
        return height, width
    scale = shortest / min(height, width)
    if max(height, width) * scale > longest:
        scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _require_file(path: str | os.PathLike[str], kind: str) -> None:
    """Check that a path is a regular file: a named pipe would wait, a device has no end.

    Raises:
        FileNotFoundError, ImageError: saying what it is instead.
    """
    name = str(path)
    if not name.strip():
        raise MissingFileError(f"the name of the {kind} is empty")
    if "\0" in name:
        raise ImageError(f"{name!r}: this is not a file name")
    if os.path.isdir(path):
        raise ImageError(f"{name}: this is a folder; name the files in it")
    if not os.path.exists(path) and "://" in name:
        raise ImageError(f"{name}: addresses are not read; download the {kind} and name the file")
    if not os.path.exists(path):
        raise MissingFileError(f"{name}: there is no such {kind}")
    if not os.path.isfile(path):
        raise ImageError(f"{name}: this is not a regular file")


def _require_few_pixels(size: tuple[int, int] | None, max_pixels: int | None) -> None:
    limit = pixel_limit(max_pixels)
    if size is not None and size[0] * size[1] > limit:
        raise TooManyPixelsError(
            f"{size[0]}x{size[1]} are too many pixels: at most {limit:,} are read "
            "(INPUT.MAX_PIXELS)"
        )


@contextmanager
def _decoded(
    source: str | os.PathLike[str] | BytesIO, start: bytes, max_pixels: int | None
) -> Iterator[Image.Image]:
    """Open a file or bytes that begin with `start` with Pillow, if it has few enough pixels."""
    _require_few_pixels(_webp_size(start), max_pixels)
    with Image.open(source, formats=FORMATS) as image:
        _require_few_pixels(image.size, max_pixels)
        _correct_ycbcr_tiff(image)
        yield image


def _correct_ycbcr_tiff(image: Image.Image) -> None:
    """Set the layout of an uncompressed YCbCr TIFF, which has three bytes a pixel.

    Pillow before 13 expects four, as libtiff returns them for JPEG compression.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    is_misread = all(
        tile.codec_name == "raw" and tile.args == ("RGBX", 0, 1) for tile in image.tile
    )
    if is_misread and image.tag_v2.get(_PHOTOMETRIC) == _YCBCR:
        image._mode = "YCbCr"
        image.tile = [tile._replace(args=("YCbCr", 0, 1)) for tile in image.tile]


def _image_error(error: BaseException, name: str, kind: str, start: bytes = b"") -> ImageError:
    """Return the error about a file that Pillow could not read, named `name`."""
    if isinstance(error, UnidentifiedImageError):
        return ImageError(f"{name}: {_other_format(start, kind)}")
    if isinstance(error, Image.DecompressionBombError):
        return TooManyPixelsError(f"{name}: the {kind} has too many pixels ({cause_of(error)})")
    if isinstance(error, InputError):
        message = str(error)
        is_large = isinstance(error, TooManyPixelsError)
        error_class = TooManyPixelsError if is_large else ImageError
        return error_class(message if name in message else f"{name}: {message}")
    return ImageError(f"{name}: the {kind} is damaged or cut short ({cause_of(error)})")


def _bytes_to_rgb(data: bytes, name: str, max_pixels: int | None) -> NDArray[Any]:
    with open_image_bytes(data, name, max_pixels=max_pixels) as image:
        return as_rgb(image)


def _read_open_file(file: Any) -> tuple[bytes, str]:
    """Read what is left of an open file, and return it with the file's name for messages."""
    name, data = _name_of(file), file.read()
    if not isinstance(data, bytes | bytearray):
        raise ImageError(f"{name} is open for text; open images with mode 'rb'")
    if not data:
        raise ImageError(f"{name} has nothing left to read; go to its beginning with seek(0)")
    return bytes(data), name


def _name_of(image: Any) -> str:
    kind = "the PIL image" if isinstance(image, Image.Image) else "the open file"
    return image_file_name(image) or kind


def _tensor_to_rgb(image: torch.Tensor) -> NDArray[Any]:
    if image.ndim != 3 or image.shape[0] != 3:
        raise ImageError(
            f"a tensor of shape {list(image.shape)} is not an image; expected [3, H, W]"
        )
    if image.layout != torch.strided or image.is_quantized or image.is_meta or image.is_complex():
        raise ImageError("an image cannot be a sparse, quantized, complex or meta tensor")
    image = image.detach().permute(1, 2, 0).cpu()
    return as_rgb((image.float() if image.is_floating_point() else image).numpy())


def _webp_size(header: bytes) -> tuple[int, int] | None:
    """Read (width, height) of a WebP file, whose decoder allocates the image when it is opened.

    Returns:
        None for other formats. Format: RFC 9649, sections 2.4 to 2.7.
    """
    if len(header) < 30 or header[:4] != b"RIFF" or header[8:12] != b"WEBP":
        return None
    if header[12:16] == b"VP8X":
        return _little(header[24:27]) + 1, _little(header[27:30]) + 1
    if header[12:16] == b"VP8L":
        bits = _little(header[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(header[26:28]) & 0x3FFF, _little(header[28:30]) & 0x3FFF


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _other_format(start: bytes, kind: str) -> str:
    """Describe a file that Pillow does not recognise by how it begins."""
    if not start:
        return f"the {kind} is an empty file"
    for beginning, name in _OTHER_FORMATS.items():
        if start.lstrip().startswith(beginning) or start[4:12] == beginning:
            return f"this is {name}, which is not read; convert it to PNG or JPEG"
    return (
        "this is not an image that can be read"
        if kind == "image"
        else f"this {kind} cannot be read"
    )


def _is_turned(image: Image.Image) -> bool:
    """Whether the EXIF orientation swaps height and width."""
    return 5 <= _orientation(image) <= 8


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where it is unknown or invalid."""
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _significant_bits(image: Image.Image) -> int | None:
    """Return the number of bits of a grey value by TIFF's BitsPerSample or PNG's sBIT chunk."""
    if image.mode not in SIXTEEN_BIT_MODES:
        return None
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        bits = tags.get(_BITS_PER_SAMPLE)
        first = bits[0] if isinstance(bits, tuple) and bits else bits
        return first if isinstance(first, int) and 8 < first < 16 else None
    name = getattr(image, "filename", "")
    return _png_significant_bits(name) if image.format == "PNG" and name else None


def _png_significant_bits(path: str) -> int | None:
    """Read the first number of a PNG's sBIT chunk, which comes before the pixels."""
    with open(path, "rb") as file:
        file.seek(8)
        while True:
            header = file.read(8)
            length, kind = int.from_bytes(header[:4], "big"), header[4:]
            if len(header) < 8 or kind == b"IDAT":
                return None
            if kind == b"sBIT":
                bits = file.read(1)
                return bits[0] if bits and 8 < bits[0] < 16 else None
            file.seek(length + 4, os.SEEK_CUR)


def _integers_to_bytes(grey: NDArray[Any], bits: int | None, name: str) -> NDArray[Any]:
    """Convert grey values of more than 8 bits to uint8.

    The range is that of `bits` where the file says them and the values fit, 8 bits for 32-bit
    integers that fit, and 16 bits otherwise.
    """
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 65535:
        raise ImageError(f"grey values are 0 to 65535, and this image has {low} to {high}")
    if high <= 255 and grey.dtype.itemsize > 2:
        return grey.astype(np.uint8)
    limit = 65535
    if bits is not None and high < 2**bits:
        limit = 2**bits - 1
    elif 0 < high < _DARK:
        _logger.warning(
            "%s: grey values from %d to %d of 65535, so the image is dark; store the number of "
            "bits (TIFF's BitsPerSample, PNG's sBIT), or scale the values",
            name,
            low,
            high,
        )
    result = np.empty(grey.shape, np.uint8)
    for top in range(0, len(grey), _STRIP):
        strip = grey[top : top + _STRIP].astype(np.int64)
        result[top : top + _STRIP] = strip // 257 if limit == 65535 else strip * 255 // limit
    return result


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
    result = np.empty((*rgba.shape[:2], 3), np.uint8)
    for target, part in zip(array_strips(result), array_strips(rgba), strict=True):
        strip = part.astype(np.uint16)
        opacity = strip[:, :, 3:]
        target[:] = (strip[:, :, :3] * opacity + 255 * (255 - opacity) + 127) // 255
    return result


def image_list(images: Any) -> list[Any]:
    """Read the images of a group once.

    Raises:
        InputError: if they are not several, but one image, a folder or nothing.
        ImageError: if one of them is None.
    """
    if isinstance(images, np.ndarray | torch.Tensor):
        is_list = images.ndim == 4
    else:
        is_list = isinstance(images, Iterable) and not hasattr(images, "read")
        is_list = is_list and not isinstance(images, str | bytes | os.PathLike | Mapping)
    read = list(images) if is_list else []
    if not read:
        raise InputError("refer_group needs a list of images, with at least one in it")
    for number, image in enumerate(read):
        if image is None:
            raise ImageError(
                f"image {number} of the group is None, which cv2.imread returns for a file that "
                "it cannot read"
            )
    return read
