"""The images of groups as one tensor of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def stack_images(items: Sequence[dict[str, Any]], mean: Tensor, std: Tensor) -> Tensor:
    """Normalised images [N, 3, H, W]; smaller ones are stretched to the largest sides.

    Args:
        items: dicts with `image` [3, h, w], 0..255.
        mean, std: [3, 1, 1]; their device is the tensor's.

    Raises:
        ValueError: if there is no image, or one is not [3, h, w], naming its file.
    """
    if not items:
        raise ValueError("a group needs at least one image")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise ValueError(
                f"image {number} of a group must be a dict with `image`, and is a "
                f"{type(item).__name__}"
            )
        image = item.get("image")
        fits = isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3
        if not fits or not image.numel():
            found = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"{name_of(item, number)}: `image` must be [3, H, W], and is {found}")
    size = largest([tuple(item["image"].shape[-2:]) for item in items])
    images = []
    for item in items:
        pixels = item["image"].to(mean.device).float()[None]
        if tuple(pixels.shape[-2:]) != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        images.append(pixels)
    return (torch.cat(images) - mean) / std


def stack_targets(items: Sequence[dict[str, Any]], size: tuple[int, int], like: Tensor) -> Tensor:
    """What each image of training groups shows, [N, H, W] of 0 and 1, stretched likewise.

    Raises:
        ValueError: if an image has no `target` [H, W], naming its file.
    """
    targets = []
    for number, item in enumerate(items):
        if not isinstance(item.get("target"), Tensor) or item["target"].ndim != 2:
            raise ValueError(f"{name_of(item, number)}: a training image needs `target` [H, W]")
        target = item["target"].to(like.device).float()[None, None]
        targets.append(F.interpolate(target, size, mode="nearest")[0, 0])
    return torch.stack(targets)


def largest(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The greatest height and the greatest width."""
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def name_of(item: dict[str, Any], number: int) -> str:
    """An image's file, or its number in the batch."""
    return str(item.get("file_name", f"image {number}"))
