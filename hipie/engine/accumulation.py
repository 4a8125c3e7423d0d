"""Gradient accumulation: a batch is computed in micro-batches, and its gradients are summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hipie.errors import InputError
from hipie.modeling.criterion.normalizer_averaging import MicroBatchCounts

Losses = dict[str, Tensor]


def split_batch(batch: Sequence[Any], steps: int) -> list[Any]:
    """Split a batch into `steps` micro-batches in order, whose sizes differ by 1 at most.

    Raises:
        InputError: if the batch is smaller than that.
    """
    if steps == 1:
        return [batch]
    size = len(batch)
    if size < steps:
        raise InputError(
            f"SOLVER.ACCUMULATION_STEPS is {steps}, and a process has batches of {size}; "
            "SOLVER.IMS_PER_BATCH is the number of images of an iteration, in all processes and "
            "micro-batches"
        )
    ends = [size * (i + 1) // steps for i in range(steps)]
    return [batch[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def accumulate_gradients(
    model: nn.Module,
    micro_batches: Sequence[Any],
    backward: Callable[[Tensor], None],
    *,
    before_forward: Callable[[int], AbstractContextManager[Any]],
) -> Losses:
    """Compute the losses of a batch in micro-batches, and add up its gradients.

    A micro-batch counts by its share of the batch. If the model divides its losses by counts of
    the whole batch (`average_normalizers`), every micro-batch is first computed without gradients
    to count. Gradients of several processes are exchanged once, with the last micro-batch.

    Args:
        model: returns a dict of losses; may be wrapped for several processes.
        micro_batches: of `split_batch`.
        backward: computes the gradients of a loss.
        before_forward: context in which the losses of micro-batch i are computed; it seeds the
            random numbers, so that both computations of a micro-batch have the same.

    Returns:
        The losses of the batch, detached.
    """
    sizes = [len(micro_batch) for micro_batch in micro_batches]
    shares = [size / sum(sizes) for size in sizes]
    counts = None
    if len(micro_batches) > 1 and getattr(unwrapped(model), "average_normalizers", False):
        counts = MicroBatchCounts(shares)
        buffers = [buffer.clone() for buffer in model.buffers()]
        for i, micro_batch in enumerate(micro_batches):
            with torch.no_grad(), counts.counting(), before_forward(i):
                model(micro_batch)
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
    total: Losses = {}
    for i, (micro_batch, share) in enumerate(zip(micro_batches, shares, strict=True)):
        is_last = i == len(micro_batches) - 1
        with gradient_exchange(model, is_last):
            with counts.averaging(i) if counts else nullcontext(), before_forward(i):
                losses = model(micro_batch)
            if share != 1:
                losses = {name: loss * share for name, loss in losses.items()}
            backward(reduce(torch.add, losses.values()))
        for name, loss in losses.items():
            total[name] = total[name] + loss.detach() if name in total else loss.detach()
    return total


@contextmanager
def gradient_exchange(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Context of a forward and backward pass after which processes exchange gradients, or not."""
    if enabled or not isinstance(model, DistributedDataParallel):
        yield
        return
    with model.no_sync():
        yield


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside `DistributedDataParallel`, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model
