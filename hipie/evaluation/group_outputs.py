"""What models answer about groups, picture by picture, whether they saw the group or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np


def pictures_of_batch(
    inputs: list[dict[str, Any]], outputs: list[Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Group, picture and answer of every picture of a batch.

    An input with `images` is a group, and its output a list with a dict for each of them; any other
    is a picture by itself (and its own group) with a dict as its output.

    Raises:
        ValueError: if a group has another number of answers than pictures.
    """
    for item, output in zip(inputs, outputs, strict=True):
        if "images" not in item:
            yield item, item, output
            continue
        if len(output) != len(item["images"]):
            raise ValueError(
                f"group {item.get('group_id')}: {len(item['images'])} pictures, but "
                f"{len(output)} answers"
            )
        for image, answer in zip(item["images"], output, strict=True):
            yield item, image, answer


def answered_map(answer: dict[str, Any]) -> np.ndarray:
    """An answer's map [H, W], float64 in 0..1; all zero where the picture was rejected.

    Args:
        answer: `sem_seg` [1, H, W] of 0..1, and perhaps `positive`.
    """
    found = answer["sem_seg"]
    grey = found.detach().cpu().numpy() if hasattr(found, "detach") else np.asarray(found)
    grey = grey.reshape(grey.shape[-2:]).astype(np.float64)
    return grey if bool(answer.get("positive", True)) else np.zeros_like(grey)
