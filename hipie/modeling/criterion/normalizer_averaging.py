"""Reductions of object counts over the processes of a training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def average_over_processes(values: Tensor) -> Tensor:
    """Compute the mean of `values` over all processes; `values` itself for a single process.

    Every process has to call it, with the same shape.
    """
    if num_processes() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / num_processes()


def max_over_processes(value: int, device: torch.device) -> int:
    """Compute the largest `value` of all processes; `value` itself for a single process.

    Every process has to call it.

    Args:
        value: of this process.
        device: on which the process group communicates.
    """
    if num_processes() == 1:
        return value
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def num_processes() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
