"""Parts of instances: assignment of part pixels to instances as trees of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from hipie.modeling.chunking import working_bytes
from hipie.modeling.device_transfer import to_device
from hipie.structures import SemanticLabels

MIN_PART_PIXELS = 100
# Parts of parts are small: eyes, handles.
MIN_NESTED_PART_PIXELS = 25
_CONNECTIVITY = np.ones((3, 3), dtype=bool)

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class InstancePart:
    """A part of an instance.

    Attributes:
        instance: index of the instance.
        part: index of the class.
        mask: [H, W] bool, nested parts included.
        score: in 0..1, the part's share of the scores of all classes, averaged over the mask.
        parts: nested parts, one level deeper.
    """

    instance: int
    part: int
    mask: Tensor
    score: float
    parts: tuple[InstancePart, ...] = ()


def part_class_map(scores: Tensor) -> Tensor:
    """[H, W] int64, the best class of every pixel of semantic scores [K, H, W]."""
    return scores.argmax(0)


def assign_parts(
    scores: Tensor | SemanticLabels,
    masks: Tensor,
    labels: Sequence[str],
    wholes: Sequence[str | None],
    min_pixels: int = MIN_PART_PIXELS,
    *,
    names: Sequence[str] | None = None,
    consistent: bool = True,
) -> list[InstancePart]:
    """Assign parts to the instances of their wholes, and nested parts to parts.

    Every pixel has the class with the highest score. Pixels of a part inside an instance of its
    whole become that instance's part if there are more than `min_pixels`. Connected components of
    a nested part that touch its part belong to the part as well.

    Args:
        scores: [K, H, W] semantic scores of a vocabulary with parts, or the best class of every
            pixel.
        masks: [N, H, W] bool instance masks.
        labels: N class names.
        wholes: K names of wholes, None for classes that are not parts; for a nested part, the name
            of its part.
        min_pixels: minimum size of a part; at most 25 for nested parts.
        names: K class names; without them, parts have no nested parts.
        consistent: restrict a part to its whole. Otherwise every connected component goes entirely
            to the instance that it overlaps most.

    Returns:
        Parts by instance, then by class.
    """
    if not len(masks):
        return []
    if isinstance(scores, Tensor):
        scores = SemanticLabels(part_class_map(scores), scores.amax(0), scores.sum(0))
    assignment = _PartAssignment(
        scores, wholes, names or [""] * len(wholes), min_pixels, consistent
    )
    parts: list[InstancePart] = []
    for instance, (mask, label) in enumerate(zip(masks.bool(), labels, strict=True)):
        same_class = [
            other.bool()
            for other, other_label in zip(masks, labels, strict=True)
            if other_label == label
        ]
        position = sum(other_label == label for other_label in labels[:instance])
        for part in assignment.children(label):
            region = assignment.region(part, mask, same_class, position)
            tree = assignment.tree(part, instance, region, 1)
            if tree is not None:
                parts.append(tree)
    return parts


class _PartAssignment:
    """Class map and part hierarchy of one image; arguments as for `assign_parts`."""

    def __init__(
        self,
        best: SemanticLabels,
        wholes: Sequence[str | None],
        names: Sequence[str],
        min_pixels: int,
        consistent: bool,
    ) -> None:
        self._classes, self._share = best.labels, best.shares()
        self._wholes, self._names = wholes, names
        self._min_pixels, self._consistent = min_pixels, consistent

    def children(self, whole: str) -> list[int]:
        """Classes that are direct parts of a class name."""
        return [
            part
            for part, part_whole in enumerate(self._wholes)
            if part_whole and part_whole == whole
        ]

    def region(
        self, part: int, mask: Tensor, same_class: Sequence[Tensor], position: int
    ) -> Tensor:
        """[H, W] bool, pixels of a part that belong to a mask, `same_class[position]`."""
        pixels = self._classes == part
        if self._consistent:
            return pixels & mask
        return pixels & torch.from_numpy(assign_components(pixels.numpy(), same_class) == position)

    def tree(self, part: int, instance: int, region: Tensor, level: int) -> InstancePart | None:
        """A part with its nested parts; None if it is too small."""
        mask, nested = region, []
        for child in self.children(self._names[part]) if self._names[part] else []:
            pixels = self._classes == child
            touching = torch.from_numpy(touching_components(pixels.numpy(), region.numpy()))
            mask = mask | touching
            subtree = self.tree(child, instance, touching, level + 1)
            if subtree is not None:
                nested.append(subtree)
                mask = mask | subtree.mask
        min_pixels = (
            self._min_pixels if level == 1 else min(self._min_pixels, MIN_NESTED_PART_PIXELS)
        )
        if int(mask.sum()) <= min_pixels:
            return None
        return InstancePart(instance, part, mask, float(self._share[mask].mean()), tuple(nested))


def assign_components(pixels: BoolArray, masks: Sequence[Tensor]) -> npt.NDArray[np.int64]:
    """Assign every connected component of a region to the mask that it overlaps most.

    Args:
        pixels: [H, W] bool, the region.
        masks: [H, W] bool each.

    Returns:
        [H, W] index of the mask; -1 outside the region and for components without overlap.
    """
    components, count = ndimage.label(pixels, _CONNECTIVITY)
    overlap = np.stack(
        [np.bincount(components[mask.numpy()], minlength=count + 1) for mask in masks]
    )
    owner = np.where(overlap.max(0) > 0, overlap.argmax(0), -1)
    owner[0] = -1
    return owner[components]


def touching_components(pixels: BoolArray, region: BoolArray) -> BoolArray:
    """[H, W] bool, connected components of `pixels` that touch a region (8-connectivity)."""
    components, count = ndimage.label(pixels, _CONNECTIVITY)
    dilated = ndimage.binary_dilation(region, _CONNECTIVITY)
    touches = np.zeros(count + 1, dtype=bool)
    touches[np.unique(components[dilated])] = True
    touches[0] = False
    return touches[components]


def enforce_part_consistency(
    scores: Tensor, names: Sequence[str], wholes: Sequence[str | None]
) -> Tensor:
    """Restrict every pixel to the classes of one whole, in place.

    A pixel is assigned to the root whole whose parts and own class have the highest sum of scores;
    all other classes get score 0 there. A class without parts is a whole of its own.

    Args:
        scores: [K, H, W] of at least 0; modified.
        names: K class names.
        wholes: K names of wholes, for nested parts the name of their part; None without whole.

    Returns:
        `scores`.
    """
    whole_of = dict(zip(names, wholes, strict=True))
    roots = [_root_whole(name, whole_of) for name in names]
    order = {root: index for index, root in enumerate(dict.fromkeys(roots))}
    if len(order) == len(names):
        return scores
    group = to_device(torch.tensor([order[root] for root in roots]), scores.device)
    sums = scores.new_zeros(len(order), *scores.shape[1:]).index_add_(0, group, scores)
    best = sums.argmax(0)
    step = max(1, working_bytes(scores.device) // best.numel())
    for some_scores, own in zip(scores.split(step), group.split(step), strict=True):
        some_scores *= best == own[:, None, None]
    return scores


def _root_whole(name: str, whole_of: dict[str, str | None]) -> str:
    """End of the chain of wholes; at most as many steps as there are names."""
    for _ in range(len(whole_of)):
        whole = whole_of.get(name)
        if not whole:
            break
        name = whole
    return name
