"""Error of the training-free methods."""

from __future__ import annotations

from hipie.errors import InputError


class TrainingFreeError(InputError):
    """Raised for an image, a class name or a setting that a method cannot process."""
