"""MaskCut: several objects by repeated normalised cuts of the graph of patches.

Wang, Girdhar, Yu, Misra, "Cut and Learn for Unsupervised Object Detection and Instance
Segmentation", CVPR 2023, section 3.2. After every cut the features of the object's patches are set
to zero, so that they have weak edges only, and the graph is cut again.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label
from torch import Tensor

from hipie.refinement import PAMRConfig, refine_by_pixels
from hipie.refinement.dense_crf import DenseCRFConfig, refine_probabilities
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.tokencut import Cut, affinity, second_eigenvector

# Objects with more corners of the grid than this are taken for the background.
MAX_CORNERS = 2
# Later objects have to be larger than this share of the grid ...
MIN_SHARE = 0.01
# ... and may not have a larger IoU with the object before.
MAX_IOU = 0.5
# Refined masks with a lower IoU with the mask before refinement are dropped.
MIN_REFINED_IOU = 0.5
# Probability of a mask's pixels before the CRF: the softmax of 0 and 1.
MASK_PROBABILITY = 1 / (1 + math.exp(-1))
# Parameters of the released program's CRF.
CRF = DenseCRFConfig(10, 3.0, 7.0, 50.0, 5.0, 10.0)


def mask_cuts(
    features: Tensor,
    grid: tuple[int, int],
    objects: int = 3,
    threshold: float = 0.15,
    weak: float = 1e-5,
) -> list[Cut]:
    """Cut out up to `objects` objects; at least one, unless the first covers no patch.

    Each cut's foreground is the side with the largest absolute value of the eigenvector, or the
    other side if that one has three or four corners of the grid. The released program decides by
    the corners of the side with the larger values, whose choice depends on the arbitrary sign of
    the eigenvector where the side of the largest absolute value has three corners.

    As in the released program, a cut that is dropped for its overlap does not count as the object
    before, so that the next cut, which is the same, is kept without the pixels of earlier objects.

    Args:
        features: [P, C], DINO's keys of the last block.
        grid: (h, w), number of patches in height and width.
        objects: number of cuts, published 3.
        threshold: see `affinity`; published 0.15.
        weak: see `affinity`.

    Returns:
        Cuts in order; their masks do not overlap.

    Raises:
        TrainingFreeError: if the grid has another number of patches, or fewer than two.
    """
    if len(features) != grid[0] * grid[1] or len(features) < 2:
        raise TrainingFreeError(
            f"{len(features)} patches cannot be cut as a grid of {grid[0]} by {grid[1]}"
        )
    features = features.clone()
    taken, before = np.zeros(grid, bool), np.zeros(grid, bool)
    cuts: list[Cut] = []
    for index in range(objects):
        cut = _cut(affinity(features, threshold, weak), grid)
        if cut is None:
            break
        mask = cut.mask
        if index and (_iou(before, mask) > MAX_IOU or mask.mean() <= MIN_SHARE):
            mask = np.zeros(grid, bool)
        visible, before = mask & ~taken, mask
        taken |= mask
        features[mask.ravel()] = 0
        if visible.any():
            cuts.append(Cut(cut.vector, cut.foreground, visible, cut.seed))
    return cuts


def _cut(graph: NDArray[np.float64], grid: tuple[int, int]) -> Cut | None:
    """Cut the graph of a grid in two; None if all edges are equal."""
    if graph.min() == graph.max():
        return None
    vector = second_eigenvector(graph)
    if vector[np.abs(vector).argmax()] < 0:
        vector = -vector
    foreground = (vector > vector.mean()).reshape(grid)
    if int(foreground[[0, 0, -1, -1], [0, -1, 0, -1]].sum()) > MAX_CORNERS:
        vector, foreground = -vector, ~foreground
    row, column = (int(i) for i in np.unravel_index(int(vector.argmax()), grid))
    components, _ = label(foreground)
    mask = components == components[row, column]
    return Cut(vector.reshape(grid), foreground, mask, (row, column))


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    union = int((first | second).sum())
    return float((first & second).sum()) / union if union else 0.0


def refined_mask(
    mask: NDArray[np.bool_], image: Tensor, method: str = "", pamr: PAMRConfig | None = None
) -> NDArray[np.bool_] | None:
    """Resize a mask of patches to an image, refine it by the image's colours and fill its holes.

    Args:
        mask: [h, w], of patches.
        image: [3, H, W] RGB in 0..1.
        method: "crf", a dense CRF with the released program's parameters, "pamr", or "" to resize
            only.
        pamr: parameters of "pamr"; by default ten steps.

    Returns:
        [H, W]; None if the refined mask has an IoU below 0.5 with the resized one.

    Raises:
        TrainingFreeError: for another method.
        MissingPackageError: for "crf" without pydensecrf2.
    """
    size = (int(image.shape[-2]), int(image.shape[-1]))
    inside = F.interpolate(image.new_tensor(mask[None, None].astype(np.float32)), size=size)[0, 0]
    resized: NDArray[np.bool_] = inside.cpu().numpy() > 0.5
    if not method:
        return resized
    if method == "crf":
        probability = np.where(resized, MASK_PROBABILITY, 1 - MASK_PROBABILITY)
        pixels = (255 * image).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
        maps = refine_probabilities(np.stack([1 - probability, probability]), pixels, CRF)
        refined = maps.argmax(0) == 1
    elif method == "pamr":
        config = pamr or PAMRConfig(10)
        both = torch.stack([1 - inside, inside])
        maps = refine_by_pixels(both, image, config.steps, config.dilations).cpu().numpy()
        refined = maps.argmax(0) == 1
    else:
        raise TrainingFreeError(
            f'MODEL.TRAINING_FREE.MASKCUT.REFINEMENT is "{method}"; there are "", "crf" and "pamr"'
        )
    filled: NDArray[np.bool_] = binary_fill_holes(refined)
    return filled if _iou(resized, filled) >= MIN_REFINED_IOU else None
