"""Earth mover's distance between two sets of patches."""

from __future__ import annotations

import numpy as np

from hipie.errors import MissingPackageError


def earth_mover_distance(costs: np.ndarray) -> float:
    """Compute the exact earth mover's distance of two uniformly weighted sets.

    Args:
        costs: [n, m] cost of moving each element of the first set to each of the second.

    Raises:
        ImportError: if POT (Python Optimal Transport) is not installed.
    """
    try:
        from ot import emd2
    except ImportError as error:
        raise MissingPackageError(
            "Matcher needs Python Optimal Transport: pip install POT"
        ) from error
    rows, columns = costs.shape
    weights = np.full(rows, 1 / rows), np.full(columns, 1 / columns)
    return float(emd2(*weights, costs.astype(np.float64)))
