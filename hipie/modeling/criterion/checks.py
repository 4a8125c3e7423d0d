"""Values that are not finite are caught where they enter the losses, and named."""

from __future__ import annotations

import torch
from torch import Tensor


class NonFiniteError(FloatingPointError):
    """A prediction holds nan or infinity, so neither matching nor losses mean anything."""


def require_finite(values: Tensor, name: str) -> None:
    """Do nothing if every value is finite.

    Args:
        values: any floating tensor.
        name: what it is, for the message ("boxes of thing layer 3").

    Raises:
        NonFiniteError: with the name, how many values, and the index of the first.
    """
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    broken = (~finite).nonzero()
    raise NonFiniteError(
        f"{name}: {len(broken)} of {values.numel()} values are nan or infinite, the first at "
        f"index {tuple(broken[0].tolist())}; lower the learning rate, or look at this batch"
    )
