"""What models answer about groups, image by image, whether they saw the group or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def images_of_batch(
    inputs: list[dict[str, Any]], outputs: list[Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Group, image and answer of every image of a batch.

    An input with `images` is a group, and its output a list with a dict for each of them; any other
    is an image by itself (and its own group) with a dict as its output.

    Raises:
        ValueError: if a group has another number of answers than images.
    """
    for item, output in zip(inputs, outputs, strict=True):
        if "images" not in item:
            yield item, item, output
            continue
        if len(output) != len(item["images"]):
            raise ValueError(
                f"group {item.get('group_id')}: {len(item['images'])} images, but "
                f"{len(output)} answers"
            )
        for image, answer in zip(item["images"], output, strict=True):
            yield item, image, answer


def answered_map(answer: dict[str, Any]) -> np.ndarray:
    """An answer's map [H, W], float64 in 0..1; all zero where the image was rejected.

    Args:
        answer: `sem_seg` [1, H, W] of 0..1, and perhaps `positive`.
    """
    found = answer["sem_seg"]
    grey = found.detach().cpu().numpy() if hasattr(found, "detach") else np.asarray(found)
    grey = grey.reshape(grey.shape[-2:]).astype(np.float64)
    return grey if bool(answer.get("positive", True)) else np.zeros_like(grey)
