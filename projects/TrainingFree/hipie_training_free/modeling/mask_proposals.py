"""Masks without names: what an expression may mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import label
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor

from hipie.modeling.sam.predictor import Sam
from hipie_training_free.modeling.dino import Dino
from hipie_training_free.modeling.kmeans import kmeans_groups

Proposals = Callable[[Tensor], Tensor]
# Pieces smaller than this share of the image are nothing that one would speak of.
LEAST_SHARE = 0.002


def sam_proposals(sam: Sam, points: int = 32) -> Proposals:
    """SAM's automatic masks: a grid of points, the stable and certain answers, no duplicates.

    Args:
        sam: the model.
        points: down and across.

    Returns:
        An image [3, H, W] (RGB in 0..1) -> masks [N, H, W] bool; N may be 0.
    """
    generator = SamAutomaticMaskGenerator(sam.model, points_per_side=points)

    def propose(image: Tensor) -> Tensor:
        pixels = (255 * image).round().byte().permute(1, 2, 0).cpu().numpy()
        found = [one["segmentation"] for one in generator.generate(np.ascontiguousarray(pixels))]
        return _stacked([one for one in found if one.any()], image)

    return propose


def group_proposals(dino: Dino, clusters: int = 4, restarts: int = 10) -> Proposals:
    """Connected pieces of k-means groups of DINO's keys, of 2 groups, of 3, ... up to `clusters`.

    Returns:
        As `sam_proposals`; at least one mask.
    """

    def propose(image: Tensor) -> Tensor:
        seen = dino.see(image)
        size = tuple(image.shape[-2:])
        found: dict[bytes, np.ndarray] = {}
        for count in range(2, max(2, clusters) + 1):
            groups = kmeans_groups(seen.keys, count, restarts).unflatten(0, seen.grid).cpu()
            for group in groups.unique():
                for piece in _pieces((groups == group).numpy()):
                    found[piece.tobytes()] = _at_size(piece, size)
        masks = [one for one in found.values() if one.mean() >= LEAST_SHARE]
        return _stacked(masks or [np.ones(size, bool)], image)

    return propose


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    numbered, count = label(mask)
    return [numbered == number for number in range(1, count + 1)]


def _at_size(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour."""
    rows = np.arange(size[0]) * mask.shape[0] // size[0]
    columns = np.arange(size[1]) * mask.shape[1] // size[1]
    return mask[rows[:, None], columns]


def _stacked(masks: list[np.ndarray], image: Tensor) -> Tensor:
    if not masks:
        return torch.zeros(0, *image.shape[-2:], dtype=torch.bool, device=image.device)
    return torch.from_numpy(np.stack(masks)).to(image.device)
