"""Losses of the pixel class head: cross entropy and soft Dice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.structures import Supervision, Targets

IGNORED = -100
"""Target of pixels without loss."""


def pixel_class_targets(target: Targets, num_classes: int, size: tuple[int, int]) -> Tensor:
    """Class of every pixel of an image.

    Where objects overlap, the smaller one counts. Pixels of no object have the class `num_classes`,
    "no class"; padding, unlabelled pixels and crowds are ignored. Where objects have no masks, only
    labelled points on them count; of images without annotated objects nothing does.

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
    supervision = target.supervision
    partial = supervision is not None and not bool(supervision.has_mask.all())
    if partial or target.tags is not None:
        classes.fill_(IGNORED)
    if partial and supervision is not None:
        _add_points(classes, target.labels, supervision)
        masks = masks & supervision.has_mask[:, None, None]
    for index in target.masks.flatten(1).sum(1).argsort(descending=True):
        classes = torch.where(masks[index], target.labels[index], classes)
    no_loss = (rows >= target.image_size[0])[:, None] | (columns >= target.image_size[1])[None]
    if target.ignored is not None:
        no_loss = no_loss | (target.ignored[rows][:, columns] > 0) & (classes == num_classes)
    return classes.masked_fill(no_loss, IGNORED)


def _add_points(classes: Tensor, labels: Tensor, supervision: Supervision) -> None:
    """Give the pixels [h, w] of labelled points their objects' classes, in place."""
    on = supervision.point_labels == 1
    size = supervision.points.new_tensor([classes.shape[1], classes.shape[0]])
    x, y = (supervision.points[on] * size).long().unbind(1)
    owners = labels[:, None].expand_as(on)[on]
    classes[y.clamp(0, classes.shape[0] - 1), x.clamp(0, classes.shape[1] - 1)] = owners


def pixel_class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross entropy of the labelled pixels of an image.

    Args:
        logits: [K + 1, h, w], see `PixelClassHead`.
        classes: [h, w], see `pixel_class_targets`.

    Returns:
        Scalar; 0 where no pixel is labelled.
    """
    total = F.cross_entropy(logits[None], classes[None], ignore_index=IGNORED, reduction="sum")
    return total / (classes != IGNORED).sum().clamp(min=1)


def pixel_dice_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Soft Dice loss of the classes that an image shows, on its labelled pixels.

    Every class has the same weight, however many pixels it has (Milletari et al., V-Net, 3DV 2016,
    section 3, with a softmax over the classes); no class is left out.

    Args:
        logits: [K + 1, h, w], see `PixelClassHead`.
        classes: [h, w], see `pixel_class_targets`.

    Returns:
        Scalar in 0..1; 0 where no pixel has a class.
    """
    labelled = classes != IGNORED
    present = classes[labelled & (classes < len(logits) - 1)].unique()
    if not len(present):
        return logits.sum() * 0.0
    probabilities = logits.softmax(0)[present][:, labelled]
    truth = (classes[labelled] == present[:, None]).to(probabilities.dtype)
    overlap = (probabilities * truth).sum(1)
    return (1 - 2 * overlap / (probabilities.sum(1) + truth.sum(1))).mean()
