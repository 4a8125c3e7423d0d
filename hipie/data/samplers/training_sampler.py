"""Batch sampler for training: batch t is a function of the seed and t only.

Training can therefore stop after any iteration and resume with the next one, with any number of
workers, and the batches are the same for any number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.errors import InputError

# Streams of the random generator.
SCHEDULE, ORDER, ITEM = 0, 1, 2
TOLERANCE = 1e-6
"""Of the sum of repeat factors."""


@dataclass(frozen=True)
class Draw:
    """One item of a batch.

    Attributes:
        dataset: index of the data set.
        index: index of the record in the data set.
        seed: seed of the item's random numbers.
    """

    dataset: int
    index: int
    seed: tuple[int, ...]


class BatchSampler:
    """Sampler of batches with one data set (so one task) and, if possible, one orientation.

    Iterations are divided into blocks; a block contains every data set in proportion to its ratio,
    in random order. Each data set is iterated in passes; a pass contains every item once, except
    that the last batch of an orientation is filled up with its first items. With repeat factors a
    pass contains an item as often as its factor says, rounded up or down at random: the pass is a
    systematic sample, whose size is the sum of the factors, rounded up to whole batches.

    Args:
        is_wide: for every data set, whether each item is wider than high.
        ratios: relative frequencies of the data sets.
        batch_sizes: items in a batch of each data set, over all processes.
        seed: determines all batches.
        repeat_factors: for every data set, the factor of each item (at least 1), or None.

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
        repeat_factors: Sequence[NDArray[np.float64] | None] | None = None,
    ) -> None:
        if not len(is_wide) == len(ratios) == len(batch_sizes):
            raise InputError(
                f"{len(is_wide)} data sets, {len(ratios)} ratios and {len(batch_sizes)} batch "
                "sizes: there must be as many of each"
            )
        if any(len(wide) == 0 for wide in is_wide):
            raise InputError("a training data set has no items")
        if min(ratios) < 0 or max(ratios) == 0:
            raise InputError(f"ratios must not be negative, and not all 0: {tuple(ratios)}")
        if min(batch_sizes) < 1:
            raise InputError(f"batch sizes must be at least 1: {tuple(batch_sizes)}")
        self.seed = seed
        self.batch_sizes = tuple(int(size) for size in batch_sizes)
        self._buckets = [_by_orientation(wide) for wide in is_wide]
        self._factors = [None] * len(is_wide) if repeat_factors is None else list(repeat_factors)
        self._schedule = np.repeat(np.arange(len(ratios)), _integer_ratios(ratios))
        self._pass_order = lru_cache(maxsize=2 * len(ratios))(self._draw_pass)
        self._block_order = lru_cache(maxsize=2)(self._draw_block)

    def batch(self, iteration: int) -> list[Draw]:
        """Return the items of the global batch of an iteration (0-based)."""
        dataset, number = self._dataset_of(iteration)
        passes, place = divmod(number, self._batches_a_pass(dataset))
        indices = self._pass_order(dataset, passes)[place]
        return [
            Draw(dataset, int(index), (self.seed, ITEM, iteration, position))
            for position, index in enumerate(indices)
        ]

    def share(self, start: int = 0, rank: int = 0, processes: int = 1) -> Iterator[list[Draw]]:
        """Yield this process's items of every batch, endlessly.

        Item i of a batch goes to process i modulo `processes`.

        Raises:
            ValueError: if a batch size is not a multiple of `processes`.
        """
        for size in self.batch_sizes:
            if size % processes:
                raise InputError(f"a batch of {size} cannot be shared by {processes} processes")
        return self._from(start, rank, processes)

    def _from(self, iteration: int, rank: int, processes: int) -> Iterator[list[Draw]]:
        while True:
            yield self.batch(iteration)[rank::processes]
            iteration += 1

    def _dataset_of(self, iteration: int) -> tuple[int, int]:
        """Return the data set of an iteration, and how many batches of it came before."""
        block, place = divmod(iteration, len(self._schedule))
        order = self._block_order(block)
        dataset = int(order[place])
        a_block = int((self._schedule == dataset).sum())
        return dataset, block * a_block + int((order[:place] == dataset).sum())

    def _draw_block(self, block: int) -> NDArray[Any]:
        return np.random.default_rng([self.seed, SCHEDULE, block]).permutation(self._schedule)

    def _batches_a_pass(self, dataset: int) -> int:
        return sum(
            self._items_a_pass(dataset, bucket) // self.batch_sizes[dataset]
            for bucket in self._buckets[dataset]
        )

    def _items_a_pass(self, dataset: int, bucket: NDArray[Any]) -> int:
        """Number of draws of one orientation in a pass: whole batches."""
        size, factors = self.batch_sizes[dataset], self._factors[dataset]
        draws = len(bucket) if factors is None else math.ceil(factors[bucket].sum() - TOLERANCE)
        return -(-draws // size) * size

    def _draw_pass(self, dataset: int, number: int) -> list[NDArray[Any]]:
        rng = np.random.default_rng([self.seed, ORDER, dataset, number])
        size = self.batch_sizes[dataset]
        batches: list[NDArray[Any]] = []
        for bucket in self._buckets[dataset]:
            full = self._items_a_pass(dataset, bucket)
            order, factors = rng.permutation(bucket), self._factors[dataset]
            if factors is None:
                drawn = np.resize(order, full)
            else:
                drawn = rng.permutation(_systematic_sample(rng, order, factors[order], full))
            batches += np.split(drawn, full // size)
        return [batches[i] for i in rng.permutation(len(batches))]


class BurnInSampler(BatchSampler):
    """Sampler that leaves some data sets out of the first batches.

    Args:
        first: sampler of the first batches.
        then: sampler of the batches after them, which starts with its first one.
        iterations: number of the first batches.
    """

    def __init__(self, first: BatchSampler, then: BatchSampler, iterations: int) -> None:
        self.batch_sizes = then.batch_sizes
        self._first, self._then, self._iterations = first, then, iterations

    def batch(self, iteration: int) -> list[Draw]:
        """Return the items of the global batch of an iteration (0-based)."""
        if iteration < self._iterations:
            return self._first.batch(iteration)
        return [
            replace(draw, seed=(*draw.seed[:2], iteration, draw.seed[3]))
            for draw in self._then.batch(iteration - self._iterations)
        ]


def _by_orientation(is_wide: Sequence[bool]) -> list[NDArray[Any]]:
    wide = np.asarray(is_wide, dtype=bool)
    return [bucket for bucket in (np.flatnonzero(wide), np.flatnonzero(~wide)) if len(bucket)]


def _systematic_sample(
    rng: np.random.Generator, items: NDArray[Any], factors: NDArray[Any], size: int
) -> NDArray[Any]:
    """Repeat every item in proportion to its factor, rounded up or down, `size` items in all."""
    ends = factors.cumsum() * (size / factors.sum())
    ends[-1] = size
    counts = np.diff(np.floor(ends + rng.random()), prepend=0.0).astype(np.int64)
    repeated: NDArray[Any] = np.repeat(items, counts)
    return repeated


def _integer_ratios(ratios: Sequence[float]) -> list[int]:
    """Convert ratios to the smallest integers with the same proportions (up to 1/100)."""
    parts = [Fraction(ratio).limit_denominator(100) for ratio in ratios]
    scale = lcm(*(part.denominator for part in parts))
    numbers = [int(part * scale) for part in parts]
    return [number // int(np.gcd.reduce(numbers)) for number in numbers]
