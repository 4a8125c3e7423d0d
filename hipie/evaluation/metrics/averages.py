"""Averages that do not depend on the order of their values, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterable


def mean(values: Iterable[float]) -> float:
    """Compute the mean with a single rounding (`math.fsum`); NaN without values."""
    numbers = [float(value) for value in values]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def percent(values: Iterable[float]) -> float:
    """Compute the mean in percent; NaN without values."""
    return 100.0 * mean(values)


def nanmean(values: Iterable[float]) -> float:
    """Compute the mean of the values that are not NaN; NaN without such values."""
    return mean(value for value in values if not math.isnan(value))
