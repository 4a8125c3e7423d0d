"""Classification of class-agnostic masks by semantic scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# A mask is that of a part of a larger mask of the same class if at least this fraction of it is
# inside the larger one, and it is at most this fraction of its size.
MIN_SHARE_INSIDE, MAX_PART_SHARE = 0.9, 0.9


def classify_masks(masks: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Assign to every mask the class with the largest sum of scores over its pixels.

    Args:
        masks: [N, H, W] bool, none of them empty.
        scores: [K, H, W] semantic scores of at least 0.

    Returns:
        Classes [N], and their share [N] of the sums of all classes.
    """
    flat = scores.flatten(1).float()
    sums = masks.flatten(1).to(flat.device, flat.dtype) @ flat.t()
    best, classes = sums.max(1)
    return classes, best / sums.sum(1).clamp(min=torch.finfo(flat.dtype).tiny)


def non_overlapping_segments(
    masks: Tensor, classes: Tensor, scores: Tensor, is_thing: Sequence[bool]
) -> list[tuple[int, float, Tensor]]:
    """Turn labelled masks into segments without overlap; smaller masks take precedence.

    Args:
        masks: [N, H, W] bool.
        classes: [N].
        scores: [N].
        is_thing: [K]; masks of one stuff class become one segment with their best score.

    Returns:
        (class, score, mask [H, W]) of every segment that keeps a pixel, largest first.
    """
    order = masks.flatten(1).sum(1).argsort(descending=True, stable=True).tolist()
    owner = torch.full(masks.shape[-2:], -1, dtype=torch.long, device=masks.device)
    for index in order:
        owner[masks[index]] = index
    segments: list[tuple[int, float, Tensor]] = []
    stuff_segment: dict[int, int] = {}
    for index in order:
        visible, label, score = owner == index, int(classes[index]), float(scores[index])
        if not visible.any():
            continue
        if is_thing[label] or label not in stuff_segment:
            stuff_segment.setdefault(label, len(segments))
            segments.append((label, score, visible))
        else:
            position = stuff_segment[label]
            _, other_score, mask = segments[position]
            segments[position] = (label, max(score, other_score), mask | visible)
    return segments


@dataclass(frozen=True)
class LabelledMask:
    """A mask with its class, and the labelled masks of its parts.

    Attributes:
        index: of the class, for a part among the part classes.
        score: share of the class in the sums of the scores of all candidates, in 0..1.
        mask: [H, W] bool.
        parts: of the mask; they do not overlap.
    """

    index: int
    score: float
    mask: Tensor
    parts: tuple[LabelledMask, ...] = ()


@dataclass(frozen=True)
class PartCandidates:
    """Part classes, and which of them are parts of which class.

    Attributes:
        scores: [K', H, W] semantic scores of the part classes.
        of_classes: indices of the parts of each of the K classes.
        of_parts: indices of the parts of each of the K' part classes.
    """

    scores: Tensor
    of_classes: Sequence[Sequence[int]]
    of_parts: Sequence[Sequence[int]]


def label_masks_and_parts(
    masks: Tensor, scores: Tensor, is_thing: Sequence[bool], parts: PartCandidates
) -> list[LabelledMask]:
    """Label masks of objects and of their parts, such as SAM's automatic masks.

    A mask S has the class C with the largest sum P(S, C) of the scores of C over its pixels. If
    almost all of S is inside a clearly larger mask of the same class, and this class has parts,
    then S is the mask of a part: it belongs to the object of that class that it overlaps most, and
    has the class with the largest P(S, C) among the object's parts. Parts of parts likewise; the
    scores of a part include those of its own parts. Masks of one part class in an object are one
    part.

    Args:
        masks: [N, H, W] bool, none of them empty.
        scores: [K, H, W] semantic scores of at least 0 of the classes.
        is_thing: [K], see `non_overlapping_segments`.
        parts: the part classes.

    Returns:
        Objects and stuff without overlap, largest first.
    """
    classes, shares = classify_masks(masks, scores)
    inclusive = torch.stack([_sum_of_parts(part, parts) for part in range(len(parts.scores))])
    parts = replace(parts, scores=inclusive)
    return _nest(masks, classes, shares, is_thing, parts.of_classes, parts)


def _sum_of_parts(part: int, parts: PartCandidates) -> Tensor:
    """[H, W] scores of a part class and of all its parts."""
    total = parts.scores[part]
    for nested in parts.of_parts[part]:
        total = total + _sum_of_parts(nested, parts)
    return total


def _nest(
    masks: Tensor,
    classes: Tensor,
    shares: Tensor,
    is_thing: Sequence[bool],
    children: Sequence[Sequence[int]],
    parts: PartCandidates,
) -> list[LabelledMask]:
    """Labelled masks of one level of the hierarchy, with the levels inside them."""
    outer, inner = _split_levels(masks, classes, children)
    segments = non_overlapping_segments(masks[outer], classes[outer], shares[outer], is_thing)
    owners = [_owner(masks[i], int(classes[i]), segments) for i in inner]
    labelled = []
    for position, (index, score, mask) in enumerate(segments):
        rows = [i for i, owner in zip(inner, owners, strict=True) if owner == position]
        nested: list[LabelledMask] = []
        if rows:
            inside = masks[rows] & mask
            candidates = torch.tensor(list(children[index]), device=parts.scores.device)
            local, part_shares = classify_masks(inside, parts.scores[candidates])
            is_instance = [False] * len(parts.of_parts)
            nested = _nest(
                inside, candidates[local], part_shares, is_instance, parts.of_parts, parts
            )
        labelled.append(LabelledMask(index, score, mask, tuple(nested)))
    return labelled


def _split_levels(
    masks: Tensor, classes: Tensor, children: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """Indices of masks of objects, and of masks inside a larger one of the same class."""
    areas = masks.flatten(1).sum(1)
    outer: list[int] = []
    inner: list[int] = []
    for index in areas.argsort(descending=True, stable=True).tolist():
        area, label = int(areas[index]), int(classes[index])
        is_part = len(children[label]) > 0 and any(
            int(classes[other]) == label
            and area <= MAX_PART_SHARE * int(areas[other])
            and int((masks[index] & masks[other]).sum()) >= MIN_SHARE_INSIDE * area
            for other in outer
        )
        (inner if is_part else outer).append(index)
    return sorted(outer), sorted(inner)


def _owner(mask: Tensor, label: int, segments: Sequence[tuple[int, float, Tensor]]) -> int | None:
    """Index of the segment of a class that a mask overlaps most; None without any overlap."""
    overlaps = [
        int((mask & segment).sum()) if index == label else 0 for index, _, segment in segments
    ]
    best = max(range(len(overlaps)), key=overlaps.__getitem__, default=None)
    return best if best is not None and overlaps[best] else None
