"""Class-agnostic mask proposals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from hipie.modeling.clustering import cluster_masks
from hipie.modeling.sam.automatic_masks import mask_generator
from hipie.modeling.sam.predictor import Sam
from hipie_training_free.modeling.dino import Dino

ProposalGenerator = Callable[[Tensor], Tensor]


def sam_proposals(sam: Sam, points: int = 32) -> ProposalGenerator:
    """Build a generator of SAM's automatic masks from a grid of points.

    Args:
        sam: the model.
        points: number of points along each side.

    Returns:
        An image [3, H, W] (RGB in 0..1) -> masks [N, H, W] bool; N may be 0.
    """
    generator = mask_generator(sam, points_per_side=points)

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
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return cluster_masks(features.keys, features.grid, size, clusters, restarts)

    return propose


def _stack(masks: list[np.ndarray], image: Tensor) -> Tensor:
    if not masks:
        return torch.zeros(0, *image.shape[-2:], dtype=torch.bool, device=image.device)
    return torch.from_numpy(np.stack(masks)).to(image.device)
