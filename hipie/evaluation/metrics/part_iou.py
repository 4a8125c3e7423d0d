"""Confusion matrices of part segmentation, and the scores made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def confusion_matrix(predicted: NDArray[Any], truth: NDArray[Any], classes: int) -> NDArray[Any]:
    """Count pixels by ground truth and prediction.

    Args:
        predicted: integers [H, W] in 0..classes - 1.
        truth: integers [H, W]; below 0 = ignored.
        classes: number of classes.

    Returns:
        int64 [classes, classes], indexed by (truth, prediction).
    """
    # Ignored pixels are counted in an extra row 0, which is cheaper than selecting the others.
    pairs = truth.astype(np.int64).ravel()
    pairs += 1
    np.maximum(pairs, 0, out=pairs)
    pairs *= classes
    pairs += predicted.ravel()
    counts = np.bincount(pairs, minlength=(classes + 1) * classes)
    matrix: NDArray[Any] = counts.reshape(classes + 1, classes)[1:]
    return matrix


def class_ious(matrix: NDArray[Any]) -> NDArray[Any]:
    """Compute the IoU, 0..1, of every class; NaN for classes without ground truth."""
    true_positives = matrix.diagonal().astype(np.float64)
    truth = matrix.sum(axis=1)
    unions = truth + matrix.sum(axis=0) - true_positives
    return np.divide(true_positives, unions, out=np.full(len(matrix), np.nan), where=truth > 0)


def mean_iou(ious: NDArray[Any]) -> float:
    """Compute the mean, in percent, of the IoUs that are not NaN; NaN without such IoUs."""
    valid_ious = ious[~np.isnan(ious)]
    return 100.0 * float(valid_ious.mean()) if len(valid_ious) else float("nan")


def group_confusion_matrix(matrix: NDArray[Any], groups: Sequence[int]) -> NDArray[Any]:
    """Sum a confusion matrix over groups of classes.

    Args:
        matrix: int64 [K, K], indexed by (truth, prediction).
        groups: group of each class, -1 = ignored as truth, and a miss as prediction.

    Returns:
        int64 [G + 1, G + 1], the last row and column for group -1; that row is 0.
    """
    indices = np.asarray(groups)
    count = int(indices.max()) + 1
    indices = np.where(indices < 0, count, indices)
    grouped = np.zeros((count + 1, count + 1), dtype=np.int64)
    np.add.at(grouped, (indices[:, None], indices[None, :]), matrix)
    grouped[count] = 0
    return grouped


def part_consistency(
    matrix: NDArray[Any], names: Sequence[str], wholes: Mapping[str, str]
) -> float:
    """Compute the percentage of pixels predicted as a part whose truth is that part's whole.

    Args:
        matrix: pixels by (truth, prediction).
        names: classes of the rows and columns.
        wholes: whole of each part, by name; the truth counts if it is the whole or any part of it.

    Returns:
        NaN if no pixel is predicted as a part.
    """
    whole_of = np.array([wholes.get(name, name) for name in names])
    is_part = np.array([name in wholes for name in names])
    predicted = matrix[:, is_part]
    consistent = (whole_of[:, None] == whole_of[None, is_part]) * predicted
    if not predicted.sum():
        return float("nan")
    return 100.0 * float(consistent.sum()) / float(predicted.sum())
