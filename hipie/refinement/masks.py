"""Refinement of the masks of one image by a method that is chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hipie.errors import InputError
from hipie.refinement.dense_crf import DenseCRFConfig, refine_probabilities
from hipie.refinement.pamr import refine_by_pixels

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam

REFINEMENTS = ("crf", "pamr", "sam")
# Probability of the label that the masks give a pixel, before a CRF.
CONFIDENCE = 0.7
PAMR_STEPS, PAMR_DILATIONS = 10, (1, 2, 4, 8, 12, 24)


def refine_masks(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    method: str,
    *,
    is_stuff: Sequence[bool] | None = None,
    scores: Sequence[float] | None = None,
    sam: Sam | None = None,
    crf: DenseCRFConfig | None = None,
) -> NDArray[np.bool_]:
    """Refine the masks of an image.

    By "crf" and "pamr" masks without overlap compete for pixels, together with the label of pixels
    without a mask, if there are any. Masks that overlap are refined one by one against their
    complement. By "sam" things are replaced by SAM's masks of their boxes, as in
    `hipie.modeling.sam.refinement`: without overlap, if there was none, and stuff loses the pixels
    of things.

    Args:
        image: [H, W, 3] uint8 RGB.
        masks: [N, H, W].
        method: "crf" (dense CRF), "pamr" (pixel-adaptive mask refinement; Araslanov, Roth, CVPR
            2020, with that paper's distances) or "sam".
        is_stuff: N flags, with "sam".
        scores: N scores; with "sam" the higher one wins a pixel.
        sam: the model of "sam".
        crf: parameters of "crf".

    Returns:
        [N, H, W]. Empty masks stay empty; a mask that would become empty is kept as it was.

    Raises:
        InputError: for an unknown method, "sam" without a model, or masks of another size.
        MissingPackageError: for "crf" without pydensecrf2.
    """
    require_refinement(method, sam is not None)
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise InputError(
            f"the masks are {list(masks.shape)}, and the image needs "
            f"[N, {image.shape[0]}, {image.shape[1]}]"
        )
    rows = np.flatnonzero(masks.any((1, 2)))
    if not len(rows):
        return masks.copy()
    overlap = bool((masks.sum(0, dtype=np.int32) > 1).any())
    if method == "sam":
        assert sam is not None
        stuff = np.zeros(len(masks), bool) if is_stuff is None else np.asarray(is_stuff, bool)
        ranks = np.ones(len(masks)) if scores is None else np.asarray(scores, float)
        refined = _refine_by_sam(image, masks[rows], stuff[rows], ranks[rows], sam, overlap)
    elif overlap:
        refined = np.stack([_compete(image, masks[row][None], method, crf)[0] for row in rows])
    else:
        refined = _compete(image, masks[rows], method, crf)
    result = masks.copy()
    for row, mask in zip(rows, refined, strict=True):
        if mask.any():
            result[row] = mask
    return result


def require_refinement(method: str, has_sam: bool = True) -> None:
    """Check the name of a refinement, and that "sam" has a model.

    Raises:
        InputError: otherwise.
    """
    if method not in REFINEMENTS:
        raise InputError(f'there is no refinement "{method}"; there are {", ".join(REFINEMENTS)}')
    if method == "sam" and not has_sam:
        raise InputError('the refinement "sam" needs a model: sam=Sam.from_source(type, weights)')


def _compete(
    image: NDArray[np.uint8], masks: NDArray[np.bool_], method: str, crf: DenseCRFConfig | None
) -> NDArray[np.bool_]:
    """Refine masks [N, H, W] without overlap together, with a label for all other pixels."""
    rest = ~masks.any(0)
    labels = np.concatenate([masks, rest[None]]) if rest.any() else masks
    if len(labels) == 1:
        return masks
    if method == "pamr":
        colors = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
        maps = torch.from_numpy(labels.astype(np.float32))
        scores = refine_by_pixels(maps, colors, PAMR_STEPS, PAMR_DILATIONS).numpy()
    else:
        other = (1 - CONFIDENCE) / (len(labels) - 1)
        scores = refine_probabilities(np.where(labels, CONFIDENCE, other), image, crf)
    best = scores.argmax(0)
    refined: NDArray[np.bool_] = best[None] == np.arange(len(masks))[:, None, None]
    return refined


def _refine_by_sam(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    is_stuff: NDArray[np.bool_],
    scores: NDArray[Any],
    sam: Sam,
    overlap: bool,
) -> NDArray[np.bool_]:
    from hipie.modeling.sam.refinement import refine_things_and_stuff

    refined: NDArray[np.bool_] = (
        refine_things_and_stuff(
            sam.encode(image),
            torch.from_numpy(masks),
            torch.from_numpy(scores),
            torch.from_numpy(is_stuff),
            overlap=overlap,
        )
        .cpu()
        .numpy()
    )
    return refined
