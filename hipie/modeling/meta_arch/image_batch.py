"""Images of several sizes as one padded tensor, and their annotations as targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from hipie.modeling.criterion.targets import Targets


@dataclass
class ImageBatch:
    """B normalised images on one canvas.

    Attributes:
        pixels: [B, 3, H, W], 0 where padded.
        padding_mask: [B, H, W] bool, True where padded.
        sizes: (height, width) of each image inside the canvas.
    """

    pixels: Tensor
    padding_mask: Tensor
    sizes: list[tuple[int, int]]

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of the padded tensor."""
        return tuple(self.pixels.shape[-2:])


def pad_images(
    images: Sequence[Tensor], mean: Tensor, std: Tensor, divisibility: int = 0
) -> ImageBatch:
    """Normalise images and lay them on one canvas, top left.

    Args:
        images: B tensors [3, h, w], uint8 or float, 0..255.
        mean, std: [3, 1, 1]; their device is the batch's.
        divisibility: the canvas's sides are multiples of this (0 or 1: no further padding).
    """
    sizes = [tuple(int(side) for side in image.shape[-2:]) for image in images]
    step = max(divisibility, 1)
    height, width = (-(-max(side) // step) * step for side in zip(*sizes, strict=True))
    pixels = mean.new_zeros(len(sizes), 3, height, width)
    padding_mask = torch.ones(len(sizes), height, width, dtype=torch.bool, device=mean.device)
    for i, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[i, :, :h, :w] = (image.to(mean.device) - mean) / std
        padding_mask[i, :h, :w] = False
    return ImageBatch(pixels, padding_mask, sizes)


def build_targets(
    instances: Instances,
    canvas: tuple[int, int],
    *,
    positive_map: Tensor,
    is_thing: Sequence[bool],
    device: torch.device,
) -> Targets:
    """The objects of one image in the form that losses read.

    Args:
        instances: `gt_classes` [N], `gt_boxes` (xyxy in pixels), `gt_masks` (`BitMasks`).
        canvas: height and width of the padded batch.
        positive_map: [N, T] bool, the tokens that name each object.
        is_thing: whether each class of the vocabulary is a thing.
        device: where the targets go.
    """
    height, width = instances.image_size
    labels = instances.gt_classes.to(device)
    boxes = instances.gt_boxes.tensor.to(device, torch.float32)
    corners = boxes / boxes.new_tensor([width, height, width, height])
    first, second = corners[:, :2], corners[:, 2:]
    masks = instances.gt_masks.tensor.to(device)
    table = torch.tensor(list(is_thing), dtype=torch.bool, device=device)
    return Targets(
        labels=labels,
        boxes=torch.cat([(first + second) / 2, second - first], dim=1),
        masks=F.pad(masks, (0, canvas[1] - width, 0, canvas[0] - height)),
        is_thing=table[labels],
        positive_map=positive_map.to(device),
        image_size=(height, width),
    )


def expression_targets(
    instances: Instances, expressions: int, canvas: tuple[int, int], device: torch.device
) -> list[Targets]:
    """What each expression about one image describes, every expression being a class of its own.

    Args:
        instances: `gt_classes` [N] say which expression means an object; the rest as in
            `build_targets`.
        expressions: how many there are.
        canvas: height and width of the padded batch.
        device: where the targets go.
    """
    found = []
    for expression in range(expressions):
        described = instances[instances.gt_classes == expression]
        described.gt_classes = torch.zeros_like(described.gt_classes)
        one = torch.ones(len(described), 1, dtype=torch.bool)
        found.append(
            build_targets(described, canvas, positive_map=one, is_thing=(True,), device=device)
        )
    return found
