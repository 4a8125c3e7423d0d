"""Image files that commands read, and result files that they write."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.errors import InputError, UsageError

if TYPE_CHECKING:
    from hipie.segmentation import Segmentation


def readable_images(images: Sequence[str], skip_broken: bool) -> list[str]:
    """Return the image files; with `skip_broken` without those that cannot be read.

    Every file that is left out is named on the standard error.

    Raises:
        ValueError: if none can be read.
    """
    if not skip_broken:
        return list(images)
    from hipie.data.image_io import read_image

    readable: list[str] = []
    errors: list[Exception] = []
    for image in images:
        try:
            read_image(image)
            readable.append(image)
        except (ValueError, OSError) as error:
            errors.append(error)
            print(f"skipped: {error}", file=sys.stderr)
    if errors and not readable:
        raise InputError(f"none of the images can be read: {errors[-1]}")
    return readable


def require_separate_output(images: Sequence[str], folder: str, stem: str) -> None:
    """Check that the drawing `stem`.png would not overwrite one of the images.

    Raises:
        UsageError: naming the image.
    """
    drawing = (Path(folder) / f"{stem}.png").resolve()
    for image in images:
        if Path(image).resolve() == drawing:
            raise UsageError(
                f"--output {folder} would overwrite the image {image}; name another folder"
            )


def save_result(result: Segmentation, folder: str, stem: str) -> None:
    """Write the drawing and the JSON of a result, and print the drawing's file name."""
    result.save(Path(folder) / f"{stem}.json")
    print(result.save(Path(folder) / f"{stem}.png", stem))


def group_to_coco(images: Sequence[str], results: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """Convert the results of a group to dicts with `file`, `shown` and `annotations`.

    Annotations are COCO results; an image without the described object has none.
    """
    converted = []
    for name, result in zip(images, results, strict=True):
        shown = any(segment.mask.any() for segment in result)
        annotations = result.to_coco() if shown else []
        converted.append({"file": name, "shown": shown, "annotations": annotations})
    return converted
