"""Reductions of object counts over the processes and the micro-batches of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor

Combine = Callable[[Tensor, Tensor], Tensor]
Reduce = Callable[[Tensor], Tensor]


class MicroBatchCounts:
    """Object counts of a batch whose losses are computed in several micro-batches.

    Losses are divided by counts of the whole batch, and some of these (matched pairs) follow from
    the predictions. So the losses of every micro-batch are computed twice: within `counting`,
    without gradients, and then, when all are counted, within `averaging`. All micro-batches have
    the same task, and all processes have equally many micro-batches.

    Args:
        shares: share of the batch of each micro-batch. The losses within `averaging`, multiplied by
            these and summed, are those of the whole batch.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        self._shares = tuple(shares)
        self._counts: list[tuple[Tensor, Reduce]] = []
        self._totals: list[Tensor] | None = None
        self._call = 0
        self._share = 1.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count a micro-batch; reductions return its own values."""
        with self._active():
            yield

    @contextmanager
    def averaging(self, index: int) -> Iterator[None]:
        """Compute micro-batch `index`; reductions return the values of the whole batch."""
        if self._totals is None:
            self._totals = [over_processes(value) for value, over_processes in self._counts]
        self._share = self._shares[index]
        with self._active():
            yield

    @property
    def share(self) -> float:
        """Share of the batch of the current micro-batch; 1 while counting."""
        return self._share

    def reduce(self, values: Tensor, combine: Combine, over_processes: Reduce) -> Tensor:
        """Return the combined values of the batch if all is counted, otherwise `values`.

        Args:
            values: of this micro-batch and process.
            combine: combines the values of two micro-batches.
            over_processes: combines those of all processes.
        """
        call, self._call = self._call, self._call + 1
        if self._totals is not None:
            return self._totals[call]
        if call == len(self._counts):
            self._counts.append((values, over_processes))
        else:
            self._counts[call] = (combine(self._counts[call][0], values), over_processes)
        return values

    @contextmanager
    def _active(self) -> Iterator[None]:
        self._call = 0
        token = _counts.set(self)
        try:
            yield
        finally:
            _counts.reset(token)


_counts: ContextVar[MicroBatchCounts | None] = ContextVar("_counts", default=None)


@torch.no_grad()
def average_over_processes(values: Tensor) -> Tensor:
    """Compute the mean of `values` over all processes; `values` itself for a single process.

    Every process has to call it, with the same shape. In a micro-batch (see `MicroBatchCounts`) it
    is the mean of the sums over micro-batches, multiplied by the micro-batch's share.
    """
    counts = _counts.get()
    if counts is None:
        return _mean_of_processes(values)
    return counts.reduce(values, torch.add, _mean_of_processes) * counts.share


@torch.no_grad()
def max_over_processes(value: int, device: torch.device) -> int:
    """Compute the largest `value` of all processes (and micro-batches).

    Every process has to call it.

    Args:
        value: of this process.
        device: on which the process group communicates.
    """
    counts = _counts.get()
    if counts is None and num_processes() == 1:
        return value
    values = torch.tensor(value, device=device)
    if counts is None:
        return int(_max_of_processes(values))
    return int(counts.reduce(values, torch.maximum, _max_of_processes))


def share_of_batch() -> float:
    """Share that the current losses have of those of all processes and micro-batches."""
    counts = _counts.get()
    return (1.0 if counts is None else counts.share) / num_processes()


def num_processes() -> int:
    """Number of processes that train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _mean_of_processes(values: Tensor) -> Tensor:
    if num_processes() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / num_processes()


def _max_of_processes(values: Tensor) -> Tensor:
    if num_processes() == 1:
        return values
    largest = values.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest
