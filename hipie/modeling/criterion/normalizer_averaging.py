"""Averaging of loss normalizers over the processes of a training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def average_over_processes(values: Tensor) -> Tensor:
    """Compute the mean of `values` over all processes; `values` itself for a single process.

    Every process has to call it, with the same shape.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
