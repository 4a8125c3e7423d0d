"""Weights and images by rule, the same on every machine and with every library's version."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def numbers(name: str, *shape: int) -> Tensor:
    """Normal numbers that depend on a name alone."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(drawn.astype(np.float32))


def unit(name: str, *shape: int) -> Tensor:
    """Rows of unit length."""
    return nn.functional.normalize(numbers(name, *shape), dim=-1)


@torch.no_grad()
def rule(module: nn.Module) -> nn.Module:
    """Give every parameter its numbers: gains around 1, all else as wide as its inputs allow."""
    for name, value in module.named_parameters():
        made = numbers(name, *value.shape)
        if value.ndim < 2:
            gain = "ln_" in name or "norm" in name
            made = 0.1 * made + (1.0 if gain and name.endswith("weight") else 0.0)
        else:
            made = made * (1.5 / value[0].numel() ** 0.5)
        value.copy_(made)
    return module
