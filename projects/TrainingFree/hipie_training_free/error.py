"""What cannot be segmented, in one sentence."""

from __future__ import annotations


class TrainingFreeError(ValueError):
    """An image, word or setting that one of the methods cannot take; the message says which."""
