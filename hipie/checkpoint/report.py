"""What became of the tensors of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """What fitted when weights were loaded.

    Attributes:
        missing: the model has them, the file does not.
        unexpected: the file has them, the model does not.
        mismatched: both have them, in different shapes.
        dropped: the file's own names that were left out on purpose.
        loaded: how many tensors were taken.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    loaded: int = 0

    @property
    def complete(self) -> bool:
        """Whether every tensor of the file and of the model found its partner."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        said = [
            _listed(self.missing, "not in the file, left as built"),
            _listed(self.unexpected, "not in the model, ignored"),
            _listed(self.mismatched, "of another shape, ignored"),
            _listed(self.dropped, "left out on purpose"),
        ]
        return "; ".join([f"{self.loaded} tensors loaded", *filter(None, said)])


def _listed(names: Sequence[str], what: str) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})"
