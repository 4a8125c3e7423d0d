"""Objects of an image by the activation maps of its tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from hipie.errors import InputError
from hipie.refinement import refine_by_pixels, refine_masks
from hipie.refinement.dense_crf import refine_probabilities
from hipie.refinement.masks import PAMR_DILATIONS, PAMR_STEPS

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam

NONE, PAMR, CRF, SAM = "none", "pamr", "crf", "sam"
REFINEMENTS = (PAMR, CRF, SAM, NONE)
EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True)
class TagMaskOptions:
    """How maps become objects.

    Attributes:
        background: value, in 0..1, above which a map is the object of its tag.
        refinement: one of `REFINEMENTS`.
        min_area: smallest object, as a share of the image; the largest one of a tag is kept.
        separate: whether connected components are objects of their own, instead of one object a
            tag.

    Raises:
        InputError: for a value out of its range.
    """

    background: float = 0.3
    refinement: str = PAMR
    min_area: float = 0.005
    separate: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.background < 1:
            raise InputError(f"the background must be between 0 and 1, not {self.background}")
        if not 0 <= self.min_area < 1:
            raise InputError(f"the smallest area must be from 0 to 1, not {self.min_area}")
        if self.refinement not in REFINEMENTS:
            raise InputError(
                f'there is no refinement "{self.refinement}"; there are {", ".join(REFINEMENTS)}'
            )


def label_map(
    image: NDArray[np.uint8], maps: Tensor, background: float, refinement: str
) -> NDArray[np.int64]:
    """Give each pixel the index of the map that is highest there.

    By "pamr" the maps, and by "crf" probabilities that are proportional to them, follow the colours
    of the image first.

    Args:
        image: [H, W, 3] uint8 RGB.
        maps: [N, H, W] in 0..1.
        background: value of a map of what has no tag.
        refinement: of `REFINEMENTS`; "sam" works on objects, and changes nothing here.

    Returns:
        [H, W], -1 where no map exceeds the background.
    """
    labels = torch.cat([maps.new_full((1, *maps.shape[1:]), background), maps]).float().cpu()
    if refinement == PAMR:
        colors = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
        labels = refine_by_pixels(labels, colors, PAMR_STEPS, PAMR_DILATIONS)
    elif refinement == CRF:
        labels = torch.from_numpy(refine_probabilities((labels / labels.sum(0)).numpy(), image))
    best: NDArray[np.int64] = labels.argmax(0).numpy() - 1
    return best


def tag_objects(
    image: NDArray[np.uint8],
    maps: Tensor,
    tags: Sequence[int],
    options: TagMaskOptions,
    sam: Sam | None = None,
) -> list[dict[str, Any]]:
    """Return the objects of an image in COCO's format.

    Args:
        image: [H, W, 3] uint8 RGB.
        maps: [N, H, W] in 0..1, of the tags.
        tags: N class indices.
        options: see there.
        sam: the model of the refinement "sam", which replaces each object by its mask of the
            object's box.

    Returns:
        Annotations with `category_id` (of `tags`), `bbox`, `area`, `iscrowd`, `segmentation`
        (compressed RLE) and `score`: the mean of the map on the object before SAM, in 0..1.
    """
    labels = label_map(image, maps, options.background, options.refinement)
    masks, rows = [], []
    for row in range(len(tags)):
        for mask in _components(labels == row, options):
            masks.append(mask)
            rows.append(row)
    if not masks:
        return []
    scores = [float(maps[row].cpu()[mask].mean()) for row, mask in zip(rows, masks, strict=True)]
    stacked = np.stack(masks)
    if options.refinement == SAM:
        stacked = refine_masks(image, stacked, SAM, scores=scores, sam=sam)
    return [
        _annotation(tags[row], mask, score)
        for row, mask, score in zip(rows, stacked, scores, strict=True)
    ]


def _components(mask: NDArray[np.bool_], options: TagMaskOptions) -> list[NDArray[np.bool_]]:
    """Connected parts of a mask that are large enough, or the largest one; together or not."""
    numbered, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
    if not count:
        return []
    areas = np.bincount(numbered.ravel())[1:]
    kept = np.flatnonzero(areas >= min(options.min_area * mask.size, areas.max())) + 1
    if not options.separate:
        return [np.isin(numbered, kept)]
    return [numbered == number for number in kept]


def _annotation(category: int, mask: NDArray[np.bool_], score: float) -> dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "category_id": int(category),
        "bbox": [float(side) for side in mask_util.toBbox(rle)],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
        "score": round(min(max(score, 0.0), 1.0), 4),
    }
