"""Denoising queries: where copies stand, how far they move, who sees whom."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.criterion.predictions import DenoisingLayout
from hipie.modeling.criterion.targets import Targets
from hipie.modeling.transformer_decoder.denoising import (
    denoising_queries,
    group_attention_mask,
    jitter,
    move_corners,
)


def image(count: int) -> Targets:
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


def copies_of(targets: list[Targets], budget: int, negatives: bool, noise=None):
    still = noise or (lambda boxes, negative: boxes + 0.25 * negative[:, None])
    boxes = [one.boxes for one in targets]
    return denoising_queries(targets, boxes, budget, still, negatives=negatives)


@pytest.mark.parametrize("negatives", [False, True])
def test_copies_stand_where_the_layout_says(negatives: bool) -> None:
    targets = [image(3), image(1), image(0)]
    copies = copies_of(targets, 14, negatives)
    layout = copies.layout
    assert layout == DenoisingLayout(14 // (6 if negatives else 3), 3, negatives)
    assert copies.references.shape == (3, layout.num_queries, 4)
    for b, one in enumerate(targets):
        for g in range(layout.num_groups):
            for i in range(layout.max_objects):
                place = g * layout.group_size + i
                assert copies.used[b, place] == (i < len(one))
                expected = one.boxes[i] if i < len(one) else torch.full((4,), 0.5)
                torch.testing.assert_close(copies.references[b, place], expected)
                if negatives and i < len(one):
                    twin = copies.references[b, place + layout.max_objects]
                    torch.testing.assert_close(twin, expected + 0.25)


def test_there_is_always_one_group_where_there_is_an_object() -> None:
    copies = copies_of([image(9)], 4, True)
    assert copies.layout.num_groups == 1
    assert copies.used.all()


def test_nothing_to_copy_gives_none() -> None:
    assert copies_of([image(0), image(0)], 10, True) is None
    assert copies_of([image(2)], 0, True) is None


def corners(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)


def test_corners_move_by_less_than_half_and_negatives_by_more() -> None:
    boxes = image(400).boxes
    negative = torch.arange(400) % 2 == 1
    moved = move_corners(boxes, negative)
    share = (corners(moved) - corners(boxes)).abs() / (boxes[:, 2:] / 2).repeat(1, 2)
    assert share[~negative].max() <= 1 + 1e-4
    assert share[negative].min() >= 1 - 1e-4
    assert share[negative].max() <= 2 + 1e-4
    assert share[~negative].mean() == pytest.approx(0.5, abs=0.05)


def test_moved_corners_stay_in_the_image() -> None:
    boxes = torch.tensor([[0.05, 0.95, 0.2, 0.2]]).repeat(50, 1)
    moved = corners(move_corners(boxes, torch.ones(50, dtype=torch.bool)))
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6


def test_jitter_scales_with_the_object() -> None:
    boxes = image(300).boxes
    moved = jitter(0.4)(boxes, torch.zeros(300, dtype=torch.bool))
    assert ((moved - boxes).abs()[:, :2] <= 0.2 * boxes[:, 2:] + 1e-6).all()
    assert ((moved - boxes).abs()[:, 2:] <= 0.4 * boxes[:, 2:] + 1e-6).all()
    assert (moved != boxes).all()


@pytest.mark.parametrize("negatives", [False, True])
def test_groups_see_themselves_and_the_matching_queries_only(negatives: bool) -> None:
    layout = DenoisingLayout(3, 2, negatives)
    hidden = group_attention_mask(layout, 5, torch.device("cpu"))
    noised = layout.num_queries
    assert hidden.shape == (noised + 5, noised + 5)
    for row in range(noised + 5):
        for column in range(noised + 5):
            if column >= noised:
                sees = True
            elif row >= noised:
                sees = False
            else:
                sees = row // layout.group_size == column // layout.group_size
            assert hidden[row, column] == (not sees)
