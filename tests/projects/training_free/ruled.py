"""Tensors generated from names, independent of machine and library versions."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn


def normal_tensor(name: str, *shape: int) -> Tensor:
    """Standard normal tensor, seeded by a name."""
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(normal.astype(np.float32))


def unit_tensor(name: str, *shape: int) -> Tensor:
    """Tensor with rows of unit length, seeded by a name."""
    return nn.functional.normalize(normal_tensor(name, *shape), dim=-1)


@torch.no_grad()
def fill_from_names(module: nn.Module) -> nn.Module:
    """Fill every parameter from its name, with norm weights around 1."""
    for name, value in module.named_parameters():
        values = normal_tensor(name, *value.shape)
        if value.ndim < 2:
            gain = "ln_" in name or "norm" in name
            values = 0.1 * values + (1.0 if gain and name.endswith("weight") else 0.0)
        else:
            values = values * (1.5 / value[0].numel() ** 0.5)
        value.copy_(values)
    return module
