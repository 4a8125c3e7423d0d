"""Comparison of checkpoints and training states, bit by bit."""

from __future__ import annotations

import torch


def assert_equal(one, other, place: str = "") -> None:
    """Compare nested dicts and lists of tensors and numbers, bit by bit."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for i, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_equal(first, second, f"{place}[{i}]")
    else:
        assert one == other, place
