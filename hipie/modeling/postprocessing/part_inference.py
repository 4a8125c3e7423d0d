"""Parts: a map of them, and trees of their masks under the things that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

FEWEST_PIXELS = 100
# Parts of parts are small: eyes, handles.
FEWEST_INSIDE = 25
_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class InstancePart:
    """A part of one instance.

    Attributes:
        instance: index of the instance.
        part: index of the class.
        mask: [H, W] bool, its own parts included.
        score: 0..1, the part's share of all classes' scores, averaged over the mask.
        parts: what was found one level deeper.
    """

    instance: int
    part: int
    mask: Tensor
    score: float
    parts: tuple[InstancePart, ...] = ()


def part_class_map(scores: Tensor) -> Tensor:
    """[H, W] int64, the class of every pixel, from semantic scores [K, H, W]."""
    return scores.argmax(0)


def assign_parts(
    scores: Tensor,
    masks: Tensor,
    labels: Sequence[str],
    wholes: Sequence[str | None],
    fewest_pixels: int = FEWEST_PIXELS,
    *,
    names: Sequence[str] | None = None,
    consistent: bool = True,
) -> list[InstancePart]:
    """Share the parts out among the instances of their wholes, and parts of parts among the parts.

    A pixel belongs to the class with the highest score. Where that class is a part, and an
    instance of its whole covers more than `fewest_pixels` of such pixels, these are the
    instance's part. What belongs to a part of that part, and touches it, is part of it too.

    Args:
        scores: [K, H, W] semantic scores of a vocabulary with parts.
        masks: [N, H, W] bool instance masks.
        labels: N class names.
        wholes: K names of wholes, None for what is no part; for a part of a part, the name of
            that part.
        fewest_pixels: see above; below the first level it is 25 at most.
        names: K names of the classes; without them, parts have no parts.
        consistent: a part ends where its whole ends. Otherwise every connected piece of it goes
            entirely to the instance that it shares most pixels with.

    Returns:
        Parts by instance, then by class.
    """
    if not len(masks):
        return []
    search = _Search(scores, wholes, names or [""] * len(wholes), fewest_pixels, consistent)
    found: list[InstancePart] = []
    for instance, (mask, label) in enumerate(zip(masks.bool(), labels, strict=True)):
        others = [other.bool() for other, own in zip(masks, labels, strict=True) if own == label]
        place = sum(own == label for own in labels[:instance])
        for part in search.children(label):
            one = search.tree(part, instance, search.within(part, mask, others, place), 1)
            if one is not None:
                found.append(one)
    return found


class _Search:
    """The classes of all pixels, and what belongs to what."""

    def __init__(
        self,
        scores: Tensor,
        wholes: Sequence[str | None],
        names: Sequence[str],
        fewest: int,
        consistent: bool,
    ) -> None:
        self._classes = part_class_map(scores)
        self._share = scores.amax(0) / scores.sum(0).clamp(min=torch.finfo(scores.dtype).tiny)
        self._wholes, self._names = wholes, names
        self._fewest, self._consistent = fewest, consistent

    def children(self, whole: str) -> list[int]:
        """Classes that are parts of a name."""
        return [part for part, own in enumerate(self._wholes) if own and own == whole]

    def within(self, part: int, mask: Tensor, others: Sequence[Tensor], place: int) -> Tensor:
        """[H, W] bool, the pixels of a class that belong to a mask, the `place`-th of `others`."""
        pixels = self._classes == part
        if self._consistent:
            return pixels & mask
        return pixels & torch.from_numpy(assign_components(pixels.numpy(), others) == place)

    def tree(self, part: int, instance: int, region: Tensor, level: int) -> InstancePart | None:
        """A part and what is inside it; None if there is too little of it."""
        mask, inside = region, []
        for child in self.children(self._names[part]) if self._names[part] else []:
            pixels = self._classes == child
            near = torch.from_numpy(touching_components(pixels.numpy(), region.numpy()))
            mask = mask | near
            one = self.tree(child, instance, near, level + 1)
            if one is not None:
                inside.append(one)
                mask = mask | one.mask
        fewest = self._fewest if level == 1 else min(self._fewest, FEWEST_INSIDE)
        if int(mask.sum()) <= fewest:
            return None
        return InstancePart(instance, part, mask, float(self._share[mask].mean()), tuple(inside))


def assign_components(pixels: np.ndarray, masks: Sequence[Tensor]) -> np.ndarray:
    """Which mask every connected piece of some pixels belongs to: the one it shares most with.

    Args:
        pixels: [H, W] bool.
        masks: [H, W] bool each.

    Returns:
        [H, W] the place of the mask, -1 outside the pixels and for pieces that touch no mask.
    """
    pieces, count = ndimage.label(pixels, _NEIGHBOURS)
    shared = np.stack([np.bincount(pieces[m.numpy()], minlength=count + 1) for m in masks])
    owner = np.where(shared.max(0) > 0, shared.argmax(0), -1)
    owner[0] = -1
    return owner[pieces]


def touching_components(pixels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """[H, W] bool, the connected pieces of some pixels that touch a region, diagonally too."""
    pieces, count = ndimage.label(pixels, _NEIGHBOURS)
    grown = ndimage.binary_dilation(region, _NEIGHBOURS)
    near = np.zeros(count + 1, dtype=bool)
    near[np.unique(pieces[grown])] = True
    near[0] = False
    return near[pieces]


def enforce_part_consistency(
    scores: Tensor, names: Sequence[str], wholes: Sequence[str | None]
) -> Tensor:
    """Semantic scores in which the parts of a pixel agree about whose parts they are.

    A pixel goes to the whole whose parts (and whose own name) score highest together; all other
    classes score 0 there. A class without parts is a whole of its own.

    Args:
        scores: [K, H, W] of at least 0; they are changed.
        names: K names of the classes.
        wholes: K names of wholes, of parts of parts the name of that part; None for no part.
    """
    of = dict(zip(names, wholes, strict=True))
    roots = [_root(name, of) for name in names]
    order = {root: number for number, root in enumerate(dict.fromkeys(roots))}
    if len(order) == len(names):
        return scores
    group = torch.tensor([order[root] for root in roots], device=scores.device)
    together = scores.new_zeros(len(order), *scores.shape[1:]).index_add_(0, group, scores)
    best = together.argmax(0)
    for place, own in enumerate(group.tolist()):
        scores[place] *= best == own
    return scores


def _root(name: str, wholes: dict[str, str | None]) -> str:
    """The end of the chain of wholes, of at most as many steps as there are names."""
    for _ in range(len(wholes)):
        whole = wholes.get(name)
        if not whole:
            break
        name = whole
    return name
