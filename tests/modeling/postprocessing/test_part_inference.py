"""Assignment of parts to the instances of their wholes."""

from __future__ import annotations

import pytest
import torch

from hipie.modeling.postprocessing.part_inference import assign_parts, part_class_map

WHOLES = [None, "dog", "dog", "cat"]


@pytest.fixture
def scores() -> torch.Tensor:
    """Four classes in the quarters of a 40x40 image, 0.7 against 0.1."""
    scores = torch.full((4, 40, 40), 0.1)
    for k, (rows, columns) in enumerate(
        [((0, 20), (0, 20)), ((0, 20), (20, 40)), ((20, 40), (0, 20)), ((20, 40), (20, 40))]
    ):
        scores[k, slice(*rows), slice(*columns)] = 0.7
    return scores


def test_parts_are_assigned_to_instances_of_their_whole(scores: torch.Tensor) -> None:
    masks = torch.ones(2, 40, 40, dtype=torch.bool)
    masks[1, :, :5] = False
    parts = assign_parts(scores, masks, ["dog", "cat"], WHOLES)
    assert [(part.instance, part.part) for part in parts] == [(0, 1), (0, 2), (1, 3)]
    assert all(part.mask.sum() == 400 for part in parts)
    assert torch.equal(parts[0].mask, part_class_map(scores) == 1)
    assert all(part.score == pytest.approx(0.7) for part in parts)


def test_part_is_inside_its_instance(scores: torch.Tensor) -> None:
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[0, :11, 20:30] = True
    (only,) = assign_parts(scores, masks, ["dog"], WHOLES)
    assert torch.equal(only.mask, masks[0])


@pytest.mark.parametrize(("pixels", "count"), [(100, 0), (101, 1)])
def test_minimum_size(scores: torch.Tensor, pixels: int, count: int) -> None:
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    inside = torch.zeros(400, dtype=torch.bool)
    inside[:pixels] = True
    masks[0, :20, 20:] = inside.view(20, 20)
    assert len(assign_parts(scores, masks, ["dog"], WHOLES)) == count
    assert len(assign_parts(scores, masks, ["dog"], WHOLES, min_pixels=0)) == 1


def test_no_instances_or_no_parts(scores: torch.Tensor) -> None:
    none = torch.zeros(0, 40, 40, dtype=torch.bool)
    assert assign_parts(scores, none, [], WHOLES) == []
    mask = torch.ones(1, 40, 40, dtype=torch.bool)
    assert assign_parts(scores, mask, ["tree"], WHOLES) == []
