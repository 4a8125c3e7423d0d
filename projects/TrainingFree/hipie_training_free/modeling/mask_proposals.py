"""Class-agnostic mask proposals."""

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

ProposalGenerator = Callable[[Tensor], Tensor]
# Components below this share of the image are left out.
MIN_AREA_SHARE = 0.002


def sam_proposals(sam: Sam, points: int = 32) -> ProposalGenerator:
    """Build a generator of SAM's automatic masks from a grid of points.

    Args:
        sam: the model.
        points: number of points along each side.

    Returns:
        An image [3, H, W] (RGB in 0..1) -> masks [N, H, W] bool; N may be 0.
    """
    generator = SamAutomaticMaskGenerator(sam.model, points_per_side=points)

    def propose(image: Tensor) -> Tensor:
        pixels = (255 * image).round().byte().permute(1, 2, 0).cpu().numpy()
        results = generator.generate(np.ascontiguousarray(pixels))
        masks = [result["segmentation"] for result in results]
        return _stack([mask for mask in masks if mask.any()], image)

    return propose


def kmeans_proposals(dino: Dino, clusters: int = 4, restarts: int = 10) -> ProposalGenerator:
    """Build a generator of connected components of k-means groups of DINO's keys.

    Args:
        dino: the network.
        clusters: numbers of clusters are 2, 3, ..., `clusters`.
        restarts: number of runs of k-means.

    Returns:
        As `sam_proposals`; at least one mask.
    """

    def propose(image: Tensor) -> Tensor:
        features = dino.extract_features(image)
        size = tuple(image.shape[-2:])
        by_content: dict[bytes, np.ndarray] = {}
        for count in range(2, max(2, clusters) + 1):
            groups = kmeans_groups(features.keys, count, restarts)
            groups = groups.unflatten(0, features.grid).cpu()
            for group in groups.unique():
                for component in _connected_components((groups == group).numpy()):
                    by_content[component.tobytes()] = _resize(component, size)
        masks = [mask for mask in by_content.values() if mask.mean() >= MIN_AREA_SHARE]
        return _stack(masks or [np.ones(size, bool)], image)

    return propose


def _connected_components(mask: np.ndarray) -> list[np.ndarray]:
    labels, count = label(mask)
    return [labels == index for index in range(1, count + 1)]


def _resize(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize with nearest neighbour."""
    rows = np.arange(size[0]) * mask.shape[0] // size[0]
    columns = np.arange(size[1]) * mask.shape[1] // size[1]
    return mask[rows[:, None], columns]


def _stack(masks: list[np.ndarray], image: Tensor) -> Tensor:
    if not masks:
        return torch.zeros(0, *image.shape[-2:], dtype=torch.bool, device=image.device)
    return torch.from_numpy(np.stack(masks)).to(image.device)
