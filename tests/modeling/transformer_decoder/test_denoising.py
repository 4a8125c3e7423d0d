"""Denoising queries: order of the copies, size of the noise, attention mask."""

from __future__ import annotations

import pytest
import torch

from hipie.box_ops import box_cxcywh_to_xyxy
from hipie.modeling.transformer_decoder.denoising import (
    build_denoising_queries,
    center_size_noise,
    corner_noise,
    denoising_attention_mask,
)
from hipie.structures import DenoisingLayout, Targets


def make_targets(count: int) -> Targets:
    """Objects well inside the image."""
    boxes = torch.cat([0.4 + 0.2 * torch.rand(count, 2), 0.1 + 0.1 * torch.rand(count, 2)], dim=1)
    return Targets(
        labels=torch.zeros(count, dtype=torch.int64),
        boxes=boxes,
        masks=torch.zeros(count, 8, 8, dtype=torch.bool),
        is_thing=torch.ones(count, dtype=torch.bool),
        positive_map=torch.ones(count, 1, dtype=torch.bool),
        image_size=(8, 8),
    )


def noised_copies(
    targets: list[Targets], num_queries: int, negatives: bool, noise=None, max_objects=None
):
    noise = noise or (lambda boxes, negative: boxes + 0.25 * negative[:, None])
    boxes = [target.boxes for target in targets]
    return build_denoising_queries(
        targets, boxes, num_queries, noise, negatives=negatives, max_objects=max_objects
    )


@pytest.mark.parametrize("negatives", [False, True])
def test_copies_are_in_the_order_of_the_layout(negatives: bool) -> None:
    targets = [make_targets(3), make_targets(1), make_targets(0)]
    copies = noised_copies(targets, 14, negatives)
    layout = copies.layout
    assert layout == DenoisingLayout(14 // (6 if negatives else 3), 3, negatives)
    assert copies.references.shape == (3, layout.num_queries, 4)
    for b, target in enumerate(targets):
        for g in range(layout.num_groups):
            for i in range(layout.max_objects):
                query = g * layout.group_size + i
                assert copies.is_used[b, query] == (i < len(target))
                expected = target.boxes[i] if i < len(target) else torch.full((4,), 0.5)
                torch.testing.assert_close(copies.references[b, query], expected)
                if negatives and i < len(target):
                    negative_copy = copies.references[b, query + layout.max_objects]
                    torch.testing.assert_close(negative_copy, expected + 0.25)


def test_there_is_at_least_one_group() -> None:
    copies = noised_copies([make_targets(9)], 4, True)
    assert copies.layout.num_groups == 1
    assert copies.is_used.all()


def test_without_queries_there_is_none() -> None:
    assert noised_copies([make_targets(2)], 0, True) is None


def test_without_objects_there_are_zero_queries() -> None:
    copies = noised_copies([make_targets(0), make_targets(0)], 10, True)
    assert copies.layout.num_queries == 0
    assert copies.references.shape == (2, 0, 4) and copies.is_used.shape == (2, 0)
    assert denoising_attention_mask(copies.layout, 5, torch.device("cpu")) is None


@pytest.mark.parametrize("objects", [0, 2])
def test_layout_for_more_objects_than_the_images_have(objects: int) -> None:
    copies = noised_copies([make_targets(objects)], 20, False, max_objects=4)
    assert copies.layout == DenoisingLayout(5, 4, False)
    expected = torch.arange(20) % 4 < objects
    assert torch.equal(copies.is_used[0], expected)


def test_more_objects_than_the_layout_has_queries_for_are_refused() -> None:
    with pytest.raises(ValueError, match="an image has 3 objects, more than max_objects, 2"):
        noised_copies([make_targets(1), make_targets(3)], 8, False, max_objects=2)


def test_corner_noise_is_below_half_the_size_and_above_for_negatives() -> None:
    boxes = make_targets(400).boxes
    negative = torch.arange(400) % 2 == 1
    moved = corner_noise(boxes, negative)
    share = (box_cxcywh_to_xyxy(moved) - box_cxcywh_to_xyxy(boxes)).abs() / (
        boxes[:, 2:] / 2
    ).repeat(1, 2)
    assert share[~negative].max() <= 1 + 1e-4
    assert share[negative].min() >= 1 - 1e-4
    assert share[negative].max() <= 2 + 1e-4
    assert share[~negative].mean() == pytest.approx(0.5, abs=0.05)


def test_moved_corners_stay_in_the_make_targets() -> None:
    boxes = torch.tensor([[0.05, 0.95, 0.2, 0.2]]).repeat(50, 1)
    moved = box_cxcywh_to_xyxy(corner_noise(boxes, torch.ones(50, dtype=torch.bool)))
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6


def test_center_size_noise_scales_with_the_object() -> None:
    boxes = make_targets(300).boxes
    moved = center_size_noise(0.4)(boxes, torch.zeros(300, dtype=torch.bool))
    assert ((moved - boxes).abs()[:, :2] <= 0.2 * boxes[:, 2:] + 1e-6).all()
    assert ((moved - boxes).abs()[:, 2:] <= 0.4 * boxes[:, 2:] + 1e-6).all()
    assert (moved != boxes).all()


@pytest.mark.parametrize("negatives", [False, True])
def test_groups_attend_to_themselves_and_to_matching_queries_only(negatives: bool) -> None:
    layout = DenoisingLayout(3, 2, negatives)
    masked = denoising_attention_mask(layout, 5, torch.device("cpu"))
    noised = layout.num_queries
    assert masked.shape == (noised + 5, noised + 5)
    for row in range(noised + 5):
        for column in range(noised + 5):
            if column >= noised:
                attends = True
            elif row >= noised:
                attends = False
            else:
                attends = row // layout.group_size == column // layout.group_size
            assert masked[row, column] == (not attends)
