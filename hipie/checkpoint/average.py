"""Weighted means of the weights of several trainings of one model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.load import matches
from hipie.errors import printable


def average_states(
    states: Mapping[str, Mapping[str, Tensor]],
    weights: Sequence[float] = (),
    patterns: Sequence[str] = ("",),
) -> dict[str, Tensor]:
    """Compute the weighted mean of the state dicts of models that began with the same weights.

    Between a fine-tuned network and its start, the mean often keeps what the start knew and what
    was learned (WiSE-FT, Wortsman et al., CVPR 2022, equation 1); of several fine-tunings it is a
    model soup (Wortsman et al., ICML 2022).

    Args:
        states: file -> state dict; one or more.
        weights: one per file, with a sum of 1; () = equal ones.
        patterns: prefixes or patterns of the names of averaged tensors. Others are those of the
            first file, as are integers, such as counters. "" is a prefix of every name.

    Returns:
        With the names, shapes and types of the first file; means are computed in float64.

    Raises:
        CheckpointError: if a file lacks a tensor or has it in another shape, if no name matches, or
            if the weights do not fit.
    """
    files = list(states)
    factors = list(weights) or [1 / len(files)] * len(files)
    if len(factors) != len(files):
        raise CheckpointError(f"{len(factors)} weights for {len(files)} files")
    if not math.isclose(sum(factors), 1.0, abs_tol=1e-6):
        raise CheckpointError(f"the weights have the sum {sum(factors):g}, not 1")
    averaged = dict(states[files[0]])
    names = [
        name
        for name, value in averaged.items()
        if value.is_floating_point() and any(matches(name, pattern) for pattern in patterns)
    ]
    if not names:
        raise CheckpointError(f"{files[0]} has no floating-point tensor {', '.join(patterns)}")
    for name in names:
        first = averaged[name]
        mean = first.double() * factors[0]
        for file, factor in zip(files[1:], factors[1:], strict=True):
            other = states[file].get(name)
            if other is None:
                raise CheckpointError(f"{file} has no tensor {printable(name)}")
            if other.shape != first.shape:
                raise CheckpointError(
                    f"{file}: {printable(name)} has the shape {list(other.shape)}, not "
                    f"{list(first.shape)}"
                )
            mean += other.double() * factor
        averaged[name] = mean.to(first.dtype)
    return averaged
