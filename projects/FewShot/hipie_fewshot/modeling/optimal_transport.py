"""The least work of moving one set of patches onto another."""

from __future__ import annotations

import numpy as np


def moving_cost(costs: np.ndarray) -> float:
    """The earth mover's distance of two sets in which all elements weigh the same.

    Args:
        costs: [n, m] of moving all of one element onto another.

    Raises:
        ImportError: if POT, which computes it exactly, is not installed.
    """
    try:
        from ot import emd2
    except ImportError as error:
        raise ImportError("Matcher needs Python Optimal Transport: pip install POT") from error
    rows, columns = costs.shape
    weights = np.full(rows, 1 / rows), np.full(columns, 1 / columns)
    return float(emd2(*weights, costs.astype(np.float64)))
