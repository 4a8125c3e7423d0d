"""TokenCut: the object of an image by one normalised cut of the graph of its patches.

Wang, Shen, Hu, Yuan, Crowley, Vaufreydaz, "Self-Supervised Transformers for Unsupervised Object
Discovery using Normalized Cut", CVPR 2022, equations 4 to 6. Two patches are joined by 1 where the
cosine of their DINO keys is above a threshold, else by a very weak edge. Several objects: again on
the patches that are left, in the spirit of MaskCut (Wang, Girdhar, Yu, Misra, CVPR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from scipy.linalg import eigh
from scipy.ndimage import label
from scipy.sparse.linalg import eigsh
from torch import Tensor

from hipie_training_free.error import TrainingFreeError

# Larger graphs are cut by Lanczos iterations; a dense decomposition is cubic in time.
MOST_DENSE = 1500


@dataclass(frozen=True)
class Cut:
    """One cut of a grid of patches.

    Attributes:
        vector: [h, w] the second smallest generalised eigenvector, the object's side positive.
        foreground: [h, w] bool, the whole side.
        mask: [h, w] bool, the connected piece of it that holds the seed.
        seed: row and column of the patch that is furthest out.
    """

    vector: np.ndarray
    foreground: np.ndarray
    mask: np.ndarray
    seed: tuple[int, int]

    def box(self, patch: int) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 around the mask in pixels."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return tuple(int(patch * side) for side in (x1, y1, x2, y2))


def affinity(features: Tensor, threshold: float = 0.2, weak: float = 1e-5) -> np.ndarray:
    """[P, P] 1 where the cosine of rows [P, C] is above the threshold, else `weak`."""
    unit = F.normalize(features.float(), dim=1)
    return np.where((unit @ unit.t() > threshold).cpu().numpy(), 1.0, weak)


def second_vector(graph: np.ndarray, dense: bool | None = None) -> np.ndarray:
    """[P] the second smallest solution of (D - A) y = l D y, with y^T D y = 1.

    Args:
        graph: [P, P] symmetric and positive.
        dense: decompose the whole matrix; by default up to 1,500 patches.
    """
    degrees = graph.sum(1)
    if len(graph) <= MOST_DENSE if dense is None else dense:
        return eigh(np.diag(degrees) - graph, np.diag(degrees), subset_by_index=[1, 1])[1][:, 0]
    root = degrees**-0.5
    values, vectors = eigsh(graph * root[:, None] * root, k=2, which="LA", v0=np.sqrt(degrees) + 1)
    return root * vectors[:, values.argmin()]


def token_cut(
    features: Tensor, grid: tuple[int, int], threshold: float = 0.2, weak: float = 1e-5
) -> Cut:
    """Cut all patches [P, C] in two.

    Args:
        features: DINO's keys of the last block.
        grid: patches down and across.
        threshold, weak: see `affinity`.

    Raises:
        TrainingFreeError: for a single patch, or if the grid is of another number of patches.
    """
    if len(features) != grid[0] * grid[1]:
        raise TrainingFreeError(f"{len(features)} patches make no grid of {grid[0]} by {grid[1]}")
    if len(features) < 2:
        raise TrainingFreeError("one patch cannot be cut; the image is too small")
    cut = _cut(affinity(features, threshold, weak), np.arange(len(features)), grid)
    if cut is not None:
        return cut
    whole = np.ones(grid, bool)
    return Cut(np.zeros(grid), whole, whole, (0, 0))


def repeated_cuts(
    features: Tensor,
    grid: tuple[int, int],
    objects: int,
    threshold: float = 0.2,
    weak: float = 1e-5,
) -> list[Cut]:
    """Up to so many objects, each cut out of what the earlier ones left; at least one."""
    cuts = [token_cut(features, grid, threshold, weak)]
    graph, taken = affinity(features, threshold, weak), cuts[0].mask.ravel().copy()
    while len(cuts) < objects:
        left = np.flatnonzero(~taken)
        cut = _cut(graph[np.ix_(left, left)], left, grid) if len(left) > 1 else None
        if cut is None:
            break
        taken |= cut.mask.ravel()
        cuts.append(cut)
    return cuts


def _cut(graph: np.ndarray, places: np.ndarray, grid: tuple[int, int]) -> Cut | None:
    """The cut of the patches at `places` of the grid; None where all are joined alike."""
    if graph.min() == graph.max():
        return None
    found = second_vector(graph)
    side = found > found.mean()
    seed = int(np.abs(found).argmax())
    if not side[seed]:
        found, side = -found, ~side
    vector, foreground = np.zeros(grid[0] * grid[1]), np.zeros(grid[0] * grid[1], bool)
    vector[places], foreground[places] = found, side
    foreground = foreground.reshape(grid)
    place = tuple(int(one) for one in np.unravel_index(places[seed], grid))
    pieces, _ = label(foreground)
    return Cut(vector.reshape(grid), foreground, pieces == pieces[place], place)
