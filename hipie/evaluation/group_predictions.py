"""Predictions for groups of images, paired with their images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.errors import InputError


def pair_images_with_outputs(
    inputs: list[dict[str, Any]], outputs: list[Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Yield group, image and output of every image of a batch.

    An input with `images` is a group, whose output is a list with a dict an image; any other input
    is a single image (and its own group), whose output is a dict.

    Raises:
        ValueError: if the number of outputs of a group is not that of its images.
    """
    for item, output in zip(inputs, outputs, strict=True):
        if "images" not in item:
            yield item, item, output
            continue
        if len(output) != len(item["images"]):
            raise InputError(
                f"group {item.get('group_id')}: {len(item['images'])} images, but "
                f"{len(output)} outputs"
            )
        for image, image_output in zip(item["images"], output, strict=True):
            yield item, image, image_output


def predicted_map(output: dict[str, Any]) -> NDArray[Any]:
    """Return the predicted map of an image, float64 [H, W] in 0..1; zeros if it is rejected.

    Args:
        output: `sem_seg` [1, H, W] in 0..1, and optionally `positive`.
    """
    sem_seg = output["sem_seg"]
    array = sem_seg.detach().cpu().numpy() if hasattr(sem_seg, "detach") else np.asarray(sem_seg)
    array = array.reshape(array.shape[-2:]).astype(np.float64)
    return array if bool(output.get("positive", True)) else np.zeros_like(array)
