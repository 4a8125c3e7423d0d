"""Cross entropy of the pixel class head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.structures import Targets

IGNORED = -100
"""Target of pixels without loss."""


def pixel_class_targets(target: Targets, num_classes: int, size: tuple[int, int]) -> Tensor:
    """Class of every pixel of an image.

    Where objects overlap, the smaller one counts. Pixels of no object have the class `num_classes`,
    "no class"; padding, unlabelled pixels and crowds are ignored.

    Args:
        target: of the image, on the padded canvas.
        num_classes: K, of the vocabulary.
        size: (h, w) of the result, sampled at the centers of its pixels.

    Returns:
        [h, w] int64 in 0..K, or `IGNORED`.
    """
    height, width = target.masks.shape[-2:]
    device = target.masks.device
    rows = ((torch.arange(size[0], device=device) + 0.5) * height / size[0]).long()
    columns = ((torch.arange(size[1], device=device) + 0.5) * width / size[1]).long()
    masks = target.masks[:, rows][:, :, columns]
    classes = torch.full(size, num_classes, dtype=torch.long, device=device)
    for index in target.masks.flatten(1).sum(1).argsort(descending=True):
        classes = torch.where(masks[index], target.labels[index], classes)
    no_loss = (rows >= target.image_size[0])[:, None] | (columns >= target.image_size[1])[None]
    if target.ignored is not None:
        no_loss = no_loss | (target.ignored[rows][:, columns] > 0) & (classes == num_classes)
    return classes.masked_fill(no_loss, IGNORED)


def pixel_class_loss(logits: Sequence[Tensor], targets: Sequence[Targets]) -> Tensor:
    """Mean cross entropy of the labelled pixels of B images, every image with the same weight.

    Args:
        logits: B tensors [K_i + 1, h, w], see `PixelClassHead`.
        targets: one an image.

    Returns:
        Scalar; 0 where no pixel is labelled.
    """
    losses = []
    for image, target in zip(logits, targets, strict=True):
        classes = pixel_class_targets(target, len(image) - 1, (image.shape[-2], image.shape[-1]))
        total = F.cross_entropy(image[None], classes[None], ignore_index=IGNORED, reduction="sum")
        losses.append(total / (classes != IGNORED).sum().clamp(min=1))
    return torch.stack(losses).mean()
