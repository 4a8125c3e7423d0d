"""Readers of annotations that are images: panoptic maps and maps of class numbers.

Panoptic maps are those of COCO (Kirillov et al., CVPR 2019): RGB, segment id = R + 256 G + 256^2 B.
Class maps are grey or palette images whose stored value is the class number.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hipie.data.image_io import ImageError, array_strips, by_strips, open_image

LOSSY_FORMATS = ("JPEG", "AVIF")
OPAQUE = WHITE = 255
CHANNEL_NAMES = {"1": "1 bit", "L": "8-bit grey", "P": "palette", "LA": "grey with alpha"}


def read_panoptic_map(path: str | os.PathLike[str], max_pixels: int | None = None) -> NDArray[Any]:
    """Read a COCO panoptic map.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: naming the file, if it cannot be read, is compressed with loss, or has no three
            channels.
    """
    with open_image(path, "panoptic map", max_pixels) as image:
        check_panoptic_format(path, image)
        return by_strips(image, lambda strip: np.asarray(strip)[:, :, :3])


def read_class_map(path: str | os.PathLike[str], max_pixels: int | None = None) -> NDArray[Any]:
    """Read a map of class numbers with its stored values.

    Palette images give their indices. Of images with three equal channels one is taken, and an
    alpha channel is ignored where it is opaque everywhere.

    Returns:
        unsigned or signed integers [H, W].

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: naming the file, if it cannot be read, is compressed with loss, or has colours
            or transparent pixels instead of class numbers.
    """
    with open_image(path, "label map", max_pixels) as image:
        _require_lossless(path, image, "label map", "class numbers")
        return by_strips(image, lambda strip: _class_numbers(path, strip))


def _class_numbers(path: str | os.PathLike[str], image: Image.Image) -> NDArray[Any]:
    """Return the class numbers [h, w] of a part of a map; see `read_class_map`."""
    array = np.asarray(image)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.ndim == 2 and np.issubdtype(array.dtype, np.integer):
        return array
    if image.mode not in ("LA", "RGB", "RGBA"):
        raise ImageError(
            f"{path}: a label map stores a class number in every pixel, and this image has "
            f"Pillow's mode {image.mode}"
        )
    if image.mode in ("LA", "RGBA"):
        if (array[:, :, -1] != OPAQUE).any():
            raise ImageError(
                f"{path}: the label map has transparent pixels, whose class is not defined; save "
                "it without an alpha channel"
            )
        array = array[:, :, :-1]
    if (array != array[:, :, :1]).any():
        raise ImageError(
            f"{path}: the label map has colours instead of class numbers; convert every colour to "
            "the number of its class, and save one channel"
        )
    return array[:, :, 0]


def check_panoptic_format(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Check by its header that an image can be a panoptic map.

    Raises:
        ImageError: naming the file.
    """
    _require_lossless(path, image, "panoptic map", "segment ids")
    if image.mode not in ("RGB", "RGBA"):
        kind = CHANNEL_NAMES.get(image.mode, f"mode {image.mode}")
        raise ImageError(
            f"{path}: a panoptic map is an RGB image (segment id = R + 256 G + 65536 B), and this "
            f"one has one channel ({kind}); split the ids into three channels"
        )


def check_class_format(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Check by its header that an image can be a map of class numbers.

    Raises:
        ImageError: naming the file.
    """
    _require_lossless(path, image, "label map", "class numbers")


def panoptic_ids(colours: NDArray[Any]) -> NDArray[Any]:
    """Return the segment ids of a panoptic map: int32 [H, W] from uint8 [H, W, 3]."""
    ids = np.empty(colours.shape[:2], np.int32)
    for strip, part in zip(array_strips(ids), array_strips(colours), strict=True):
        planes = part.astype(np.int32)
        strip[:] = planes[:, :, 0] + 256 * planes[:, :, 1] + 65536 * planes[:, :, 2]
    return ids


def segment_ids(colours: NDArray[Any]) -> set[int]:
    """Return the ids that a panoptic map, uint8 [H, W, 3], has."""
    ids: set[int] = set()
    for strip in array_strips(colours):
        ids.update(np.unique(panoptic_ids(strip)).tolist())
    return ids


def semantic_of_panoptic(record: Mapping[str, Any], ignore_label: int) -> NDArray[Any]:
    """Return the class index of every pixel of a panoptic map, int32 [H, W]; crowds included.

    Args:
        record: has `pan_seg_file_name` and `segments_info`.
        ignore_label: of pixels without a segment.
    """
    ids = panoptic_ids(read_panoptic_map(record["pan_seg_file_name"]))
    labels = np.full(ids.shape, ignore_label, dtype=np.int32)
    for segment in record["segments_info"]:
        labels[ids == segment["id"]] = segment["category_id"]
    return labels


def require_segments(
    path: str | os.PathLike[str],
    colours: NDArray[Any],
    segments: Iterable[Mapping[str, Any]],
) -> set[int]:
    """Check that a panoptic map has the segments that its annotation declares.

    Args:
        path: file of the map, for the message.
        colours: uint8 [H, W, 3].
        segments: `segments_info`.

    Returns:
        Declared ids without a pixel, if others have some.

    Raises:
        ImageError: naming the file, if no declared id is in the map, or its channels are in BGR
            order.
    """
    declared = {int(segment["id"]) for segment in segments}
    absent = declared - segment_ids(colours)
    if not absent:
        return set()
    if not declared - segment_ids(colours[:, :, ::-1]):
        raise ImageError(
            f"{path}: the channels of the panoptic map are in the order BGR (cv2.imwrite takes BGR "
            "arrays); save it as RGB, where segment id = R + 256 G + 65536 B"
        )
    if absent == declared:
        raise ImageError(
            f"{path}: the panoptic map has none of the segments that its annotation declares "
            f"(segment id = R + 256 G + 65536 B; the first declared id is {min(declared)})"
        )
    return absent


def require_class_values(
    path: str | os.PathLike[str], values: Iterable[int], class_count: int, ignore_label: int
) -> None:
    """Check that class maps are not masks of 0 and 255 that stand for two classes.

    Args:
        path: file of one of the maps, for the message.
        values: of all maps together.
        class_count: number of classes of the data set.
        ignore_label: the value that is not a class.

    Raises:
        ImageError: naming the file.
    """
    if class_count == 2 and ignore_label == WHITE and set(values) == {0, WHITE}:
        raise ImageError(
            f"{path}: the label maps of two classes have the values 0 and {WHITE}, and {WHITE} is "
            "the value of ignored pixels; store class 1 as 1, or set another ignore_label"
        )


def _require_lossless(
    path: str | os.PathLike[str], image: Image.Image, kind: str, content: str
) -> None:
    if image.format in LOSSY_FORMATS:
        raise ImageError(
            f"{path}: a {kind} cannot be a {image.format} file, whose compression changes the "
            f"{content}; save it as PNG"
        )
