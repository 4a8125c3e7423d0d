"""TokenCut: object discovery by a normalised cut of the graph of patches.

Wang, Shen, Hu, Yuan, Crowley, Vaufreydaz, "Self-Supervised Transformers for Unsupervised Object
Discovery using Normalized Cut", CVPR 2022, equations 4 to 6. Two patches have an edge of weight 1
if the cosine of their DINO keys is above a threshold, else a very weak edge. Several objects are
cut out of the remaining patches, similar to MaskCut (Wang, Girdhar, Yu, Misra, CVPR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from scipy.ndimage import label
from torch import Tensor

from hipie_training_free.error import TrainingFreeError

# Larger graphs use Lanczos iterations, since a dense decomposition has cubic time.
MAX_DENSE_PATCHES = 1500


@dataclass(frozen=True)
class Cut:
    """Cut of a grid of patches.

    Attributes:
        vector: [h, w] second smallest generalised eigenvector, positive for the foreground.
        foreground: [h, w] bool, one side of the cut.
        mask: [h, w] bool, its connected component that contains the seed.
        seed: row and column of the patch with the largest absolute value.
    """

    vector: np.ndarray
    foreground: np.ndarray
    mask: np.ndarray
    seed: tuple[int, int]

    def box(self, patch: int) -> tuple[int, int, int, int]:
        """Bounding box (x1, y1, x2, y2) of the mask in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return tuple(int(patch * side) for side in (x1, y1, x2, y2))


def affinity(features: Tensor, threshold: float = 0.2, weak: float = 1e-5) -> np.ndarray:
    """Edge weights [P, P]: 1 if the cosine of [P, C] is above the threshold, else `weak`."""
    unit = F.normalize(features.float(), dim=1)
    return np.where((unit @ unit.t() > threshold).cpu().numpy(), 1.0, weak)


def second_eigenvector(graph: np.ndarray, dense: bool | None = None) -> np.ndarray:
    """Compute the second smallest solution [P] of (D - A) y = l D y, with y^T D y = 1.

    Args:
        graph: [P, P] symmetric and positive.
        dense: use a dense decomposition; by default up to 1,500 patches.
    """
    from scipy.linalg import eigh
    from scipy.sparse.linalg import eigsh

    degrees = graph.sum(1)
    if len(graph) <= MAX_DENSE_PATCHES if dense is None else dense:
        return eigh(np.diag(degrees) - graph, np.diag(degrees), subset_by_index=[1, 1])[1][:, 0]
    root = degrees**-0.5
    values, vectors = eigsh(graph * root[:, None] * root, k=2, which="LA", v0=np.sqrt(degrees) + 1)
    return root * vectors[:, values.argmin()]


def token_cut(
    features: Tensor, grid: tuple[int, int], threshold: float = 0.2, weak: float = 1e-5
) -> Cut:
    """Cut the graph of all patches [P, C] in two.

    Args:
        features: DINO's keys of the last block.
        grid: (h, w), number of patches in height and width.
        threshold: see `affinity`.
        weak: see `affinity`.

    Raises:
        TrainingFreeError: for a single patch, or if the grid has another number of patches.
    """
    if len(features) != grid[0] * grid[1]:
        raise TrainingFreeError(
            f"{len(features)} patches do not form a grid of {grid[0]} by {grid[1]}"
        )
    if len(features) < 2:
        raise TrainingFreeError("one patch cannot be cut; the image is too small")
    cut = _cut(affinity(features, threshold, weak), np.arange(len(features)), grid)
    if cut is not None:
        return cut
    full = np.ones(grid, bool)
    return Cut(np.zeros(grid), full, full, (0, 0))


def repeated_cuts(
    features: Tensor,
    grid: tuple[int, int],
    objects: int,
    threshold: float = 0.2,
    weak: float = 1e-5,
) -> list[Cut]:
    """Cut out up to `objects` objects, each from the remaining patches; at least one."""
    cuts = [token_cut(features, grid, threshold, weak)]
    graph, taken = affinity(features, threshold, weak), cuts[0].mask.ravel().copy()
    while len(cuts) < objects:
        remaining = np.flatnonzero(~taken)
        subgraph = graph[np.ix_(remaining, remaining)]
        cut = _cut(subgraph, remaining, grid) if len(remaining) > 1 else None
        if cut is None:
            break
        taken |= cut.mask.ravel()
        cuts.append(cut)
    return cuts


def _cut(graph: np.ndarray, patches: np.ndarray, grid: tuple[int, int]) -> Cut | None:
    """Cut the graph of these patches of the grid; None if all edges are equal."""
    if graph.min() == graph.max():
        return None
    eigenvector = second_eigenvector(graph)
    side = eigenvector > eigenvector.mean()
    seed = int(np.abs(eigenvector).argmax())
    if not side[seed]:
        eigenvector, side = -eigenvector, ~side
    vector, foreground = np.zeros(grid[0] * grid[1]), np.zeros(grid[0] * grid[1], bool)
    vector[patches], foreground[patches] = eigenvector, side
    foreground = foreground.reshape(grid)
    row, column = (int(i) for i in np.unravel_index(patches[seed], grid))
    components, _ = label(foreground)
    mask = components == components[row, column]
    return Cut(vector.reshape(grid), foreground, mask, (row, column))
