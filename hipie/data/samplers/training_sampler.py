"""Which items make up training batch t: a function of the seed and t, and of nothing else.

So training can stop after any iteration and go on with the next, with any number of workers, and
P processes share a batch that is the same for every P.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEDULE, ORDER, ITEM = 0, 1, 2


@dataclass(frozen=True)
class Draw:
    """One item of a batch.

    Attributes:
        dataset: position of its data set.
        index: position of the record in the data set.
        seed: of everything that is drawn for the item.
    """

    dataset: int
    index: int
    seed: tuple[int, ...]


class BatchSampler:
    """Batches of one data set (so of one task) and, where possible, of one orientation.

    The data sets take turns in blocks: a block holds every data set as often as its ratio says, in
    an order of its own. A data set is gone through in passes; in a pass every item comes once,
    except that the last batch of an orientation is filled up with its first items.

    Args:
        is_wide: for every data set, whether each of its items is wider than high.
        ratios: how often each data set is drawn, relative to the others.
        batch_sizes: items in a batch of each data set, over all processes.
        seed: decides every batch.

    Raises:
        ValueError: if the lists differ in length, a data set is empty, a ratio is negative or all
            are 0, or a batch size is below 1.
    """

    def __init__(
        self,
        is_wide: Sequence[Sequence[bool]],
        ratios: Sequence[float],
        batch_sizes: Sequence[int],
        seed: int,
    ) -> None:
        if not len(is_wide) == len(ratios) == len(batch_sizes):
            raise ValueError(
                f"{len(is_wide)} data sets, {len(ratios)} ratios and {len(batch_sizes)} batch "
                "sizes: there must be as many of each"
            )
        if any(len(wide) == 0 for wide in is_wide):
            raise ValueError("a training data set has no items")
        if min(ratios) < 0 or max(ratios) == 0:
            raise ValueError(f"ratios must not be negative, and not all 0: {tuple(ratios)}")
        if min(batch_sizes) < 1:
            raise ValueError(f"batch sizes must be at least 1: {tuple(batch_sizes)}")
        self.seed = seed
        self.batch_sizes = tuple(int(size) for size in batch_sizes)
        self._buckets = [_by_orientation(wide) for wide in is_wide]
        self._turns = np.repeat(np.arange(len(ratios)), _whole_numbers(ratios))
        self._pass_order = lru_cache(maxsize=2 * len(ratios))(self._draw_pass)
        self._block_order = lru_cache(maxsize=2)(self._draw_block)

    def batch(self, iteration: int) -> list[Draw]:
        """The items of the global batch of one iteration (0-based)."""
        dataset, number = self._turn(iteration)
        passes, place = divmod(number, self._batches_a_pass(dataset))
        indices = self._pass_order(dataset, passes)[place]
        return [
            Draw(dataset, int(index), (self.seed, ITEM, iteration, position))
            for position, index in enumerate(indices)
        ]

    def share(self, start: int = 0, rank: int = 0, processes: int = 1) -> Iterator[list[Draw]]:
        """This process's part of every batch from iteration `start` on, without end.

        Item i of a batch goes to process i modulo `processes`.

        Raises:
            ValueError: if a batch size is not a multiple of `processes`.
        """
        for size in self.batch_sizes:
            if size % processes:
                raise ValueError(f"a batch of {size} cannot be shared by {processes} processes")
        return self._from(start, rank, processes)

    def _from(self, iteration: int, rank: int, processes: int) -> Iterator[list[Draw]]:
        while True:
            yield self.batch(iteration)[rank::processes]
            iteration += 1

    def _turn(self, iteration: int) -> tuple[int, int]:
        """Whose turn it is, and how many turns that data set had before."""
        block, place = divmod(iteration, len(self._turns))
        order = self._block_order(block)
        dataset = int(order[place])
        a_block = int((self._turns == dataset).sum())
        return dataset, block * a_block + int((order[:place] == dataset).sum())

    def _draw_block(self, block: int) -> NDArray[Any]:
        return np.random.default_rng([self.seed, SCHEDULE, block]).permutation(self._turns)

    def _batches_a_pass(self, dataset: int) -> int:
        size = self.batch_sizes[dataset]
        return sum(-(-len(bucket) // size) for bucket in self._buckets[dataset])

    def _draw_pass(self, dataset: int, number: int) -> list[NDArray[Any]]:
        rng = np.random.default_rng([self.seed, ORDER, dataset, number])
        size = self.batch_sizes[dataset]
        batches: list[NDArray[Any]] = []
        for bucket in self._buckets[dataset]:
            full = -(-len(bucket) // size) * size
            batches += np.split(np.resize(rng.permutation(bucket), full), full // size)
        return [batches[i] for i in rng.permutation(len(batches))]


def _by_orientation(is_wide: Sequence[bool]) -> list[NDArray[Any]]:
    wide = np.asarray(is_wide, dtype=bool)
    return [bucket for bucket in (np.flatnonzero(wide), np.flatnonzero(~wide)) if len(bucket)]


def _whole_numbers(ratios: Sequence[float]) -> list[int]:
    """Ratios as the smallest whole numbers with the same proportions (to a hundredth)."""
    parts = [Fraction(ratio).limit_denominator(100) for ratio in ratios]
    scale = lcm(*(part.denominator for part in parts))
    numbers = [int(part * scale) for part in parts]
    return [number // int(np.gcd.reduce(numbers)) for number in numbers]
