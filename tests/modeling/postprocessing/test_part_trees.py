"""Nested parts, parts outside their whole, and part consistency of semantic scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.modeling.postprocessing.part_inference import (
    assign_components,
    assign_parts,
    enforce_part_consistency,
    touching_components,
)

NAMES = ["grass", "person head", "person arm", "person eye"]
WHOLES = [None, "person", "person", "person head"]


@pytest.fixture
def labels() -> np.ndarray:
    """A head with an eye in it, an arm, an eye elsewhere; a second head on the right."""
    labels = np.zeros((40, 60), int)
    labels[2:16, 4:18] = 1
    labels[6:12, 8:14] = 3
    labels[20:36, 4:14] = 2
    labels[30:36, 20:26] = 3
    labels[2:16, 40:54] = 1
    return labels


@pytest.fixture
def people() -> torch.Tensor:
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, :34, :30] = True
    masks[1, :, 44:] = True
    return masks


def scores_of(labels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.eye(4)[labels]).permute(2, 0, 1).float() * 0.6 + 0.1


def assign(labels: np.ndarray, people: torch.Tensor, **options):
    scores = scores_of(labels)
    return assign_parts(scores, people, ["person"] * 2, WHOLES, names=NAMES, **options)


def test_nested_part_belongs_to_the_part_it_touches(labels, people) -> None:
    head, arm, second = assign(labels, people)
    assert [(part.instance, part.part) for part in (head, arm, second)] == [(0, 1), (0, 2), (1, 1)]
    (eye,) = head.parts
    assert eye.part == 3 and int(eye.mask.sum()) == 36
    assert int(head.mask.sum()) == 14 * 14, "the eye's pixels are the head's too"
    assert not (eye.mask & ~head.mask).any()
    assert not eye.mask[30:, 20:].any(), "components that touch no head belong to none"
    assert second.parts == () and arm.parts == ()
    assert eye.score == pytest.approx(0.7)


def test_consistent_parts_are_inside_their_whole(labels, people) -> None:
    for part in assign(labels, people):
        assert not (part.mask & ~people[part.instance]).any()
    assert int(assign(labels, people)[1].mask.sum()) == 14 * 10


def test_inconsistent_parts_keep_entire_components(labels, people) -> None:
    head, arm, second = assign(labels, people, consistent=False)
    assert int(arm.mask.sum()) == 16 * 10 and (arm.mask & ~people[0]).any()
    assert int(second.mask.sum()) == 14 * 14
    assert int(head.mask.sum()) == 14 * 14


def test_without_names_parts_are_not_nested(labels, people) -> None:
    parts = assign_parts(scores_of(labels), people, ["person"] * 2, WHOLES)
    assert all(part.parts == () for part in parts)
    assert int(parts[0].mask.sum()) == 14 * 14 - 36


def test_minimum_size_of_nested_parts(labels, people) -> None:
    labels[6:12, 8:14] = 1
    labels[6:11, 8:13] = 3
    assert assign(labels, people)[0].parts == (), "25 pixels are not more than 25"
    labels[11, 8] = 3
    assert len(assign(labels, people)[0].parts) == 1


def test_components_are_assigned_by_overlap() -> None:
    pixels = np.zeros((6, 10), bool)
    pixels[1, 1:6] = pixels[2, 6] = True  # one component, connected at a corner
    pixels[5, 9] = True
    left, right = torch.zeros(2, 6, 10, dtype=torch.bool)
    left[:, :3], right[:, 3:8] = True, True
    owner = assign_components(pixels, [left, right])
    assert (owner[pixels] == [1, 1, 1, 1, 1, 1, -1]).all() and (owner[~pixels] == -1).all()


def test_components_touch_at_corners() -> None:
    region, pixels = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
    region[1, 1] = True
    pixels[2, 2:] = pixels[4, 0] = True
    assert touching_components(pixels, region).sum() == 3


def test_classes_of_a_pixel_belong_to_one_whole() -> None:
    names = ["dog head", "dog tail", "cat head", "cat", "sky"]
    wholes = ["dog", "dog", "cat", None, None]
    scores = torch.tensor([0.3, 0.3, 0.4, 0.1, 0.2])[:, None, None].repeat(1, 1, 2)
    scores[:, 0, 1] = torch.tensor([0.3, 0.1, 0.4, 0.1, 0.2])
    kept = enforce_part_consistency(scores.clone(), names, wholes)
    assert kept.argmax(0).tolist() == [[0, 2]], "dog 0.6 against cat 0.5; then 0.4 against 0.5"
    assert kept[:, 0, 0].tolist() == pytest.approx([0.3, 0.3, 0, 0, 0])
    assert kept[:, 0, 1].tolist() == pytest.approx([0, 0, 0.4, 0.1, 0])
    deep = enforce_part_consistency(scores.clone(), names, ["dog", "dog head", "cat", None, None])
    assert torch.equal(deep, kept), "a nested part belongs to its root"
    plain = scores.clone()
    assert enforce_part_consistency(plain, names, [None] * 5) is plain
