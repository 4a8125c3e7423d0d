"""Classes of masks, compared with values computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from hipie.modeling.postprocessing.mask_labelling import (
    LabelledMask,
    PartCandidates,
    classify_masks,
    label_masks_and_parts,
    non_overlapping_segments,
)


def test_class_with_the_largest_sum_over_the_pixels() -> None:
    scores = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    classes, shares = classify_masks(masks, scores)
    for i in range(4):
        sums = [float(scores[k][masks[i]].double().sum()) for k in range(3)]
        assert int(classes[i]) == sums.index(max(sums))
        assert abs(float(shares[i]) - max(sums) / sum(sums)) < 1e-6


def test_small_masks_take_precedence_and_stuff_is_merged() -> None:
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[0] = True  # stuff, everything
    masks[1, :2, :2] = True  # thing
    masks[2, 3:, :3] = True  # the same stuff
    masks[3, :2, :2] = True  # equal to the thing's mask, processed after it
    segments = non_overlapping_segments(
        masks, torch.tensor([1, 0, 1, 0]), torch.tensor([0.4, 0.5, 0.7, 0.6]), [1, 0]
    )
    assert [(label, round(score, 2)) for label, score, _ in segments] == [(1, 0.7), (0, 0.6)]
    total = torch.stack([mask for _, _, mask in segments]).sum(0)
    assert (total == 1).all()
    assert torch.equal(segments[1][2], masks[3])
    assert segments[0][2].sum() == 20


def planted_scene() -> tuple[torch.Tensor, torch.Tensor, PartCandidates]:
    """Masks of a dog, its head, eye and tail, of a second dog and of grass, with noisy scores.

    Classes: grass, dog. Part classes: grass, head, tail, eye.
    """
    boxes = {
        "grass": (0, 0, 40, 60),
        "dog": (5, 5, 30, 30),
        "head": (5, 5, 17, 17),
        "eye": (8, 8, 12, 12),
        "tail": (20, 22, 30, 30),
        "other dog": (5, 40, 20, 55),
        "other tail": (12, 48, 20, 55),
    }
    masks = torch.zeros(len(boxes), 40, 60, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes.values(), strict=True):
        mask[top:bottom, left:right] = True
    _, dog, head, eye, tail, other, other_tail = masks
    scores = 0.1 + 0.2 * torch.rand(2, 40, 60, generator=torch.Generator().manual_seed(0))
    scores[0, ~(dog | other)] += 0.6
    scores[1, dog | other] += 0.6
    part_scores = 0.1 + 0.2 * torch.rand(4, 40, 60, generator=torch.Generator().manual_seed(1))
    part_scores[1, head & ~eye] += 0.6
    part_scores[2, tail | other_tail] += 0.6
    part_scores[3, eye] += 0.6
    return masks, scores, PartCandidates(part_scores, [[], [1, 2]], [[], [3], [], []])


def tree(labelled: Sequence[LabelledMask]) -> list[tuple]:
    return [(mask.index, tree(mask.parts)) for mask in labelled]


def test_planted_parts_are_found_in_their_objects() -> None:
    masks, scores, parts = planted_scene()
    labelled = label_masks_and_parts(masks, scores, [False, True], parts)
    assert tree(labelled) == [
        (0, []),
        (1, [(1, [(3, [])]), (2, [])]),
        (1, [(2, [])]),
    ]
    first, second = labelled[1:]
    assert torch.equal(first.mask, masks[1]) and torch.equal(second.mask, masks[5])
    head, tail = first.parts
    assert torch.equal(head.mask, masks[2]) and torch.equal(tail.mask, masks[4])
    assert torch.equal(head.parts[0].mask, masks[3])
    assert not any((part.mask & ~item.mask).any() for item in labelled for part in item.parts)


def test_order_of_the_masks_does_not_matter() -> None:
    masks, scores, parts = planted_scene()
    expected = label_masks_and_parts(masks, scores, [False, True], parts)
    shuffled = masks[torch.tensor([3, 6, 0, 4, 2, 5, 1])]
    assert tree(label_masks_and_parts(shuffled, scores, [False, True], parts)) == tree(expected)


def test_classes_without_parts_keep_their_masks_apart() -> None:
    """A small mask in a large one of the same class stays an object of its own."""
    masks, scores, parts = planted_scene()
    without = PartCandidates(parts.scores, [[], []], [[], [], [], []])
    labelled = label_masks_and_parts(masks, scores, [False, True], without)
    expected = non_overlapping_segments(masks, *classify_masks(masks, scores), [False, True])
    assert [(m.index, m.score) for m in labelled] == [(c, s) for c, s, _ in expected]
    assert all(torch.equal(m.mask, e[2]) for m, e in zip(labelled, expected, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_classes_equal_brute_force(seed: int) -> None:
    """P(S, C) pixel by pixel: of objects over all classes, of parts over the object's parts."""
    rng = np.random.default_rng(seed)
    scores, part_scores = rng.random((3, 6, 7)), rng.random((5, 6, 7))
    masks = rng.random((4, 6, 7)) < 0.5
    masks[0], masks[1, 0, 0] = True, True
    of_classes, of_parts = [[0, 1], [2, 4], []], [[], [3], [], [], []]

    def best(mask: np.ndarray, values: np.ndarray, candidates: list[int]) -> tuple[int, float]:
        sums = dict.fromkeys(candidates, 0.0)
        for c in candidates:
            for y, x in np.argwhere(mask):
                sums[c] += values[c, y, x]
        label = max(sums, key=sums.__getitem__)
        return label, sums[label] / sum(sums.values())

    parts = PartCandidates(torch.from_numpy(part_scores), of_classes, of_parts)
    labelled = label_masks_and_parts(
        torch.from_numpy(masks), torch.from_numpy(scores), [True] * 3, parts
    )
    outer, share = best(masks[0], scores, [0, 1, 2])
    largest = next(m for m in labelled if m.index == outer)
    assert largest.score == pytest.approx(share, rel=1e-5)
    inclusive = part_scores.copy()
    inclusive[1] += part_scores[3]
    expected: dict[int, np.ndarray] = {}
    for mask in masks[1:]:
        if of_classes[outer] and best(mask, scores, [0, 1, 2])[0] == outer:
            inside = mask & largest.mask.numpy()
            label, _ = best(inside, inclusive, of_classes[outer])
            expected[label] = expected.get(label, np.zeros_like(inside)) | inside
    covered = np.zeros_like(masks[0])
    for part in largest.parts:
        assert not (part.mask.numpy() & ~expected[part.index]).any()
        covered |= part.mask.numpy()
    union = np.logical_or.reduce([np.zeros_like(covered), *expected.values()])
    assert np.array_equal(covered, union)
