"""Averages that are the same to the last bit, whatever order the values come in."""

from __future__ import annotations

import math
from collections.abc import Iterable


def mean(values: Iterable[float]) -> float:
    """The mean, rounded once (`math.fsum`); NaN of nothing."""
    found = [float(value) for value in values]
    return math.fsum(found) / len(found) if found else math.nan


def percent(values: Iterable[float]) -> float:
    """The mean in percent; NaN of nothing."""
    return 100.0 * mean(values)


def mean_of_known(values: Iterable[float]) -> float:
    """The mean of what is not NaN; NaN if nothing is."""
    return mean(value for value in values if not math.isnan(value))
