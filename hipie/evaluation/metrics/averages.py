"""Averages that do not depend on the order of their values, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Iterable

FRACTION_BITS = 90


def to_fixed_point(value: float) -> int:
    """Convert a number to an integer multiple of 2^-90, so that sums of them are exact.

    The conversion is exact for 0 and for all numbers of at least 2^-38; smaller ones are rounded
    down. A sum of such integers does not depend on its order, nor on the number of processes.

    Args:
        value: finite.
    """
    return math.floor(math.ldexp(value, FRACTION_BITS))


def from_fixed_point(total: int) -> float:
    """Convert a sum of `to_fixed_point` to the nearest floating-point number."""
    return total / (1 << FRACTION_BITS)


def mean(values: Iterable[float]) -> float:
    """Compute the mean with a single rounding (`math.fsum`); NaN without values."""
    numbers = [float(value) for value in values]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def percent(values: Iterable[float]) -> float:
    """Compute the mean in percent; NaN without values."""
    return 100.0 * mean(values)


def ratio(numerator: float, denominator: float) -> float:
    """Divide in percent; NaN if the denominator is 0."""
    return 100.0 * (numerator / denominator) if denominator else math.nan


def nanmean(values: Iterable[float]) -> float:
    """Compute the mean of the values that are not NaN; NaN without such values."""
    return mean(value for value in values if not math.isnan(value))
