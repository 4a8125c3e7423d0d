"""What a network computed on its way, by name, for those who ask."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

EVERYTHING = "all"


class Activations:
    """Keeps the tensors that were asked for, and no others.

    Args:
        wanted: names, or "all".
    """

    def __init__(self, wanted: Collection[str] | str = ()) -> None:
        self._all = wanted == EVERYTHING
        self._wanted = frozenset([wanted] if isinstance(wanted, str) else wanted)
        self._noted: set[str] = set()
        self.kept: dict[str, Tensor] = {}

    def wants(self, name: str) -> bool:
        """Whether a name is asked for."""
        return self._all or name in self._wanted

    def note(self, name: str, value: Tensor) -> None:
        """Offer a tensor under a name."""
        self._noted.add(name)
        if self.wants(name):
            self.kept[name] = value

    def require_all_kept(self) -> None:
        """After the forward pass.

        Raises:
            ValueError: for a name that the network does not have, with those that it has.
        """
        unknown = sorted(self._wanted - self._noted - {EVERYTHING})
        if unknown:
            raise ValueError(
                f'there is no activation "{unknown[0]}"; there are {", ".join(sorted(self._noted))}'
            )
