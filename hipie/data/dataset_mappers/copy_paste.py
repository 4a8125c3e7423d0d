"""Copy-paste augmentation: objects of another image are pasted into a training image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.data.dataset_mappers.annotation_reader import ObjectMasks


@dataclass(frozen=True)
class CopyPaste:
    """Settings of copy-paste (Ghiasi et al., CVPR 2021).

    Attributes:
        probability: that objects are pasted into a training image, 0..1.
        records: images that objects are taken from; those of the data set itself, so that all
            classes are annotated in both images.
        skip_broken: whether nothing is pasted from an image that cannot be read.
    """

    probability: float
    records: Sequence[dict[str, Any]]
    skip_broken: bool = False


def select_pasted(
    rng: np.random.Generator, classes: NDArray[Any], kinds: Sequence[str]
) -> NDArray[np.bool_]:
    """Sample the objects that are pasted.

    Parts are pasted together, as they make up one object. Otherwise each object is taken with
    probability 1/2, and at least one. Stuff is pasted only where the vocabulary has nothing else,
    as in semantic sets of animals.

    Args:
        rng: generator.
        classes: class index of every object, [N].
        kinds: "thing", "stuff" or "part" of every class of the vocabulary.

    Returns:
        [N]; nothing is selected if there is no object to paste.
    """
    all_stuff = all(kind == "stuff" for kind in kinds)
    candidates = np.array([all_stuff or kinds[index] != "stuff" for index in classes], dtype=bool)
    if any(kinds[index] == "part" for index in classes) or not candidates.any():
        return candidates
    selected: NDArray[np.bool_] = candidates & (rng.random(len(classes)) < 0.5)
    if not selected.any():
        selected[rng.choice(np.flatnonzero(candidates))] = True
    return selected


def paste_objects(
    image: NDArray[Any],
    objects: ObjectMasks,
    source_image: NDArray[Any],
    source: ObjectMasks,
    offset: tuple[int, int],
    *,
    join_classes: bool = False,
) -> tuple[NDArray[Any], ObjectMasks]:
    """Paste objects into an image; they hide what is behind them.

    Args:
        image: [h, w, 3].
        objects: of the image.
        source_image: [H, W, 3], the image of the pasted objects.
        source: the pasted objects.
        offset: (row, column) of the image at which the source's first pixel is; what is outside the
            image is cut off.
        join_classes: whether the objects of a class are one, as in semantic maps.

    Returns:
        The image and its visible objects, the pasted ones last (with `join_classes` by class).
        Hidden objects are removed, and pasted pixels are not ignored.
    """
    height, width = image.shape[:2]
    masks = np.zeros((len(source.masks), height, width), dtype=bool)
    target, origin = _overlap(offset, source_image.shape[:2], (height, width))
    masks[:, *target] = source.masks[:, *origin]
    pasted_pixels = masks.any(axis=0)
    moved = np.zeros_like(image)
    moved[target] = source_image[origin]
    pasted = np.where(pasted_pixels[:, :, None], moved, image)
    all_masks = np.concatenate([objects.masks & ~pasted_pixels, masks])
    classes = np.concatenate([objects.classes, source.classes])
    if join_classes:
        classes, owners = np.unique(classes, return_inverse=True)
        joined = np.zeros((len(classes), height, width), dtype=bool)
        np.logical_or.at(joined, owners, all_masks)
        all_masks = joined
    ignored = None
    if objects.ignored is not None:
        ignored = np.where(pasted_pixels, np.uint8(0), objects.ignored)
    entries = None
    if objects.annotations is not None and source.annotations is not None:
        entries = (*objects.annotations, *source.annotations)
    joined_objects = ObjectMasks(all_masks, classes, ignored, annotations=entries)
    return pasted, joined_objects.select(all_masks.any(axis=(1, 2)))


def sample_offset(
    rng: np.random.Generator, source: tuple[int, int], image: tuple[int, int]
) -> tuple[int, int]:
    """Sample where a source lies on an image, both (height, width): the smaller in the larger."""
    spaces = [outer - inner for inner, outer in zip(source, image, strict=True)]
    row, column = (int(rng.integers(min(0, space), max(0, space) + 1)) for space in spaces)
    return row, column


def _overlap(
    offset: tuple[int, int], source: tuple[int, ...], image: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Rows and columns of the common pixels in the image and in the source."""
    target, origin = [], []
    for start, inner, outer in zip(offset, source, image, strict=True):
        first, last = max(0, start), max(0, min(outer, start + inner))
        target.append(slice(first, last))
        origin.append(slice(first - start, last - start))
    return (target[0], target[1]), (origin[0], origin[1])
