"""Error of the training-free methods."""

from __future__ import annotations


class TrainingFreeError(ValueError):
    """Raised for an image, a class name or a setting that a method cannot process."""
