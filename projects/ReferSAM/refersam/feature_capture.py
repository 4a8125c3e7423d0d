"""Capture of intermediate features by name."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from hipie.errors import InputError

ALL = "all"


class FeatureCapture:
    """Keeps the intermediate features that were requested, and no others.

    Args:
        names: names of features, or "all".

    Attributes:
        features: the requested features that have been recorded, by name.
    """

    def __init__(self, names: Collection[str] | str = ()) -> None:
        self._capture_all = names == ALL
        self._requested = frozenset([names] if isinstance(names, str) else names)
        self._recorded: set[str] = set()
        self.features: dict[str, Tensor] = {}

    def is_requested(self, name: str) -> bool:
        """Whether a feature is requested."""
        return self._capture_all or name in self._requested

    def record(self, name: str, value: Tensor) -> None:
        """Record a feature; it is kept if it is requested."""
        self._recorded.add(name)
        if self.is_requested(name):
            self.features[name] = value

    def check_names(self) -> None:
        """Check after the forward pass that every requested feature was recorded.

        Raises:
            ValueError: for an unknown name, with the available names.
        """
        unknown = sorted(self._requested - self._recorded - {ALL})
        if unknown:
            available = ", ".join(sorted(self._recorded))
            raise InputError(f'there is no feature "{unknown[0]}"; available: {available}')
