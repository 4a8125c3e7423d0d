"""Batched inputs of GRSer: groups of images with an expression, and their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.device_transfer import to_device


@dataclass(frozen=True)
class Group:
    """Images with one expression.

    Attributes:
        expression: the referring expression.
        images: dicts with `image` [3, H, W], in training with `target` [H, W].
        has_negatives: whether an image may lack the target. False for referring expressions about
            a single image, which are true by construction.
        heatmaps: return the heatmaps of its images.
    """

    expression: str
    images: list[dict[str, Any]]
    has_negatives: bool
    heatmaps: bool = False


def groups_from_input(item: dict[str, Any], *, training: bool) -> list[Group]:
    """Read the groups of one input dict; the formats are those of `GRSer`.

    An image with several expressions gives one group of a single image for each expression.

    Raises:
        ValueError: if the dict has neither `images` and `expression` nor `image` and
            `expressions`, or if a training image has no `instances`.
    """
    if "images" in item:
        if not item["images"]:
            raise InputError("a group needs at least one image in `images`")
        if not isinstance(item.get("expression"), str):
            raise InputError("a group needs a referring expression (str) in `expression`")
        return [
            Group(
                item["expression"],
                list(item["images"]),
                has_negatives=True,
                heatmaps=bool(item.get("heatmaps", False)),
            )
        ]
    if not item.get("expressions") or isinstance(item["expressions"], str):
        raise InputError(
            f"{image_name(item, 0)}: GRSer needs `images` and `expression`, or one `image` and a "
            "list of `expressions`"
        )
    if not training:
        return [Group(text, [item], has_negatives=False) for text in item["expressions"]]
    if "instances" not in item:
        raise InputError(f"{image_name(item, 0)}: a training image needs `instances`")
    instances, groups = item["instances"], []
    for index, expression in enumerate(item["expressions"]):
        masks = instances.gt_masks.tensor[instances.gt_classes == index]
        target = masks.any(0) if len(masks) else torch.zeros(item["image"].shape[-2:])
        groups.append(Group(expression, [{**item, "target": target}], has_negatives=False))
    return groups


def stack_images(images: Sequence[dict[str, Any]], mean: Tensor, std: Tensor) -> Tensor:
    """Normalise images and stack them; smaller ones are resized to the largest height and width.

    Args:
        images: dicts with `image` [3, h, w] in 0..255.
        mean: [3, 1, 1]; the result is on its device.
        std: [3, 1, 1].

    Returns:
        [N, 3, H, W].

    Raises:
        ValueError: if there is no image, or if one is not [3, h, w]; the message names its file.
    """
    if not images:
        raise InputError("a group needs at least one image")
    for index, item in enumerate(images):
        if not isinstance(item, dict):
            raise InputError(
                f"image {index} of a group must be a dict with `image`, and is a "
                f"{type(item).__name__}"
            )
        image = item.get("image")
        valid = isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3
        if not valid or not image.numel():
            actual = list(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(
                f"{image_name(item, index)}: `image` must be [3, H, W], and is {actual}"
            )
    size = largest_size([tuple(item["image"].shape[-2:]) for item in images])
    resized = []
    for item in images:
        pixels = to_device(item["image"], mean.device).float()[None]
        if tuple(pixels.shape[-2:]) != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False)
        resized.append(pixels)
    return (torch.cat(resized) - mean) / std


def stack_targets(images: Sequence[dict[str, Any]], size: tuple[int, int], like: Tensor) -> Tensor:
    """Stack the target masks of training images, resized with nearest neighbour.

    Args:
        images: dicts with `target` [h, w] of 0 and 1.
        size: height and width of the result.
        like: a tensor on the device of the result.

    Returns:
        [N, *size] of 0 and 1.

    Raises:
        ValueError: if an image has no `target` [h, w]; the message names its file.
    """
    targets = []
    for index, item in enumerate(images):
        if not isinstance(item.get("target"), Tensor) or item["target"].ndim != 2:
            raise InputError(f"{image_name(item, index)}: a training image needs `target` [H, W]")
        target = to_device(item["target"], like.device).float()[None, None]
        targets.append(F.interpolate(target, size, mode="nearest")[0, 0])
    return torch.stack(targets)


def largest_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the maximum height and the maximum width."""
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def image_name(item: dict[str, Any], index: int) -> str:
    """Return the file name of an image, or its index if it has none."""
    return str(item.get("file_name", f"image {index}"))
