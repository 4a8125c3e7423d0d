"""Targets and loss of the pixel class head against cases made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.criterion.pixel_class_loss import (
    IGNORED,
    pixel_class_loss,
    pixel_class_targets,
    pixel_dice_loss,
)
from hipie.structures import CROWD, UNLABELLED, Targets

NUM_CLASSES = 3


def targets(
    *objects: tuple[int, slice, slice],
    image_size: tuple[int, int] = (8, 8),
    ignored: Tensor | None = None,
) -> Targets:
    """Objects (class, rows, columns) on a canvas of 8x8."""
    masks = torch.zeros(len(objects), 8, 8, dtype=torch.bool)
    for mask, (_, rows, columns) in zip(masks, objects, strict=True):
        mask[rows, columns] = True
    count = len(objects)
    return Targets(
        labels=torch.tensor([label for label, _, _ in objects], dtype=torch.long),
        boxes=torch.full((count, 4), 0.5),
        masks=masks,
        is_thing=torch.ones(count, dtype=torch.bool),
        positive_map=torch.ones(count, 1, dtype=torch.bool),
        image_size=image_size,
        ignored=ignored,
    )


ALL = slice(None)


def test_the_smaller_of_overlapping_objects_counts() -> None:
    large, small = (0, ALL, slice(0, 4)), (2, slice(0, 2), slice(0, 2))
    for objects in ((large, small), (small, large)):
        classes = pixel_class_targets(targets(*objects), NUM_CLASSES, (8, 8))
        assert (classes[:2, :2] == 2).all()
        assert (classes[2:, :4] == 0).all()
        assert (classes[:, 4:] == NUM_CLASSES).all()


def test_targets_are_sampled_at_pixel_centers() -> None:
    objects = (1, slice(0, 4), ALL)
    classes = pixel_class_targets(targets(objects), NUM_CLASSES, (2, 4))
    assert classes.tolist() == [[1] * 4, [NUM_CLASSES] * 4]


def test_padding_unlabelled_pixels_and_crowds_have_no_loss() -> None:
    ignored = torch.zeros(8, 8, dtype=torch.uint8)
    ignored[0], ignored[1] = UNLABELLED, CROWD
    target = targets((1, slice(0, 3), slice(0, 2)), image_size=(6, 7), ignored=ignored)
    classes = pixel_class_targets(target, NUM_CLASSES, (8, 8))
    assert (classes[6:] == IGNORED).all() and (classes[:, 7] == IGNORED).all()
    assert (classes[:2, 2:] == IGNORED).all()
    assert (classes[:3, :2] == 1).all()  # an annotated object in front of a crowd
    assert (classes[2:6, 2:7] == NUM_CLASSES).all()
    logits = torch.randn(NUM_CLASSES + 1, 8, 8, requires_grad=True)
    for loss in (pixel_class_loss, pixel_dice_loss):
        logits.grad = None
        loss(logits, classes).backward()
        has_loss = logits.grad.abs().sum(0) > 0
        assert torch.equal(has_loss, classes != IGNORED)


def test_loss_is_the_mean_cross_entropy_of_labelled_pixels() -> None:
    torch.manual_seed(0)
    classes = pixel_class_targets(targets((0, ALL, slice(0, 4))), NUM_CLASSES, (8, 8))
    logits = torch.randn(NUM_CLASSES + 1, 8, 8)
    left = torch.tensor([0] * 4 + [NUM_CLASSES] * 4).expand(8, 8)
    expected = F.cross_entropy(logits[None], left[None])
    torch.testing.assert_close(pixel_class_loss(logits, classes), expected)
    classes = pixel_class_targets(targets(image_size=(2, 8)), 1, (8, 8))
    expected = F.cross_entropy(logits[None, :2, :2], torch.ones(1, 2, 8, dtype=torch.long))
    torch.testing.assert_close(pixel_class_loss(logits[:2], classes), expected)


def test_dice_loss_against_numpy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 8, 8, dtype=torch.float64)
    classes = torch.randint(0, 4, (8, 8))
    classes[classes == 1], classes[0] = 0, IGNORED  # class 1 is not in the image
    values = np.exp(logits.numpy())
    probabilities = (values / values.sum(0))[:, 1:].reshape(4, -1)
    labels = classes[1:].reshape(-1).numpy()
    terms = []
    for index in (0, 2):  # 3 is no class
        truth = labels == index
        overlap = 2 * probabilities[index][truth].sum()
        terms.append(1 - overlap / (probabilities[index].sum() + truth.sum()))
    assert float(pixel_dice_loss(logits, classes)) == pytest.approx(np.mean(terms), abs=1e-12)
    certain = 100.0 * F.one_hot(classes.clamp(min=0), 4).permute(2, 0, 1).double()
    assert float(pixel_dice_loss(certain, classes)) == pytest.approx(0, abs=1e-6)


def test_an_image_without_labelled_pixels_has_no_loss() -> None:
    ignored = torch.full((8, 8), UNLABELLED, dtype=torch.uint8)
    classes = pixel_class_targets(targets(ignored=ignored), NUM_CLASSES, (8, 8))
    for function in (pixel_class_loss, pixel_dice_loss):
        logits = torch.randn(NUM_CLASSES + 1, 8, 8, requires_grad=True)
        loss = function(logits, classes)
        loss.backward()
        assert loss == 0 and not logits.grad.any()
