"""Event writers of the loss groups: as scalars, and as training progress in one line.

There are over a hundred loss terms. Every writer gets each of them, and the sums of their groups.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from itertools import takewhile
from statistics import fmean

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

from hipie.logs import get_logger
from hipie.modeling.criterion.losses import LOSS_REGISTRY

logger = get_logger(__name__)

# Iterations that are averaged.
WINDOW_SIZE = 20
PREFIX = "loss_"
GROUP_PREFIX = "losses/"
"""Start of the names of the scalars with the sums of loss groups."""


def loss_group(term: str) -> tuple[str, str] | None:
    """Return the branch of a loss term, "things" or "stuff", and the group that the term declares.

    Denoising terms of stuff are ("denoising", ""); those of things share their names with the thing
    decoder's layers and count there.

    >>> loss_group("loss_giou_2_maskdino")
    ('stuff', 'box')

    Args:
        term: such as "loss_giou_2_maskdino": the name of a term in `LOSS_REGISTRY` and suffixes.

    Returns:
        None for a scalar that is no registered loss term.
    """
    if not term.startswith(PREFIX):
        return None
    suffixed_term = f"{term.removeprefix(PREFIX)}_"
    names = [entry.name for _, entry in LOSS_REGISTRY if suffixed_term.startswith(f"{entry.name}_")]
    if not names:
        return None
    name = max(names, key=len)
    suffix = suffixed_term.removeprefix(name)
    if "_dn" in suffix:
        return "denoising", ""
    branch = "stuff" if suffix.endswith("_maskdino_") else "things"
    return branch, LOSS_REGISTRY.group_of(name) or ""


class ProgressPrinter(EventWriter):
    """Event writer that logs one line: iteration, time left, losses, learning rate, step time.

    Values are means over the last 20 iterations. A term that only some tasks have is averaged over
    the iterations that have it, so the groups need not add up to the total.

    Args:
        max_iter: number of iterations of the run, for the time left.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter
        self._start: tuple[int, float] | None = None

    def write(self) -> None:
        """Log the line of the current iteration."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:
            return
        line = [f"{storage.iter + 1}/{self._max_iter}"]
        seconds_left = self._seconds_left(storage)
        if seconds_left is not None:
            line.append(f"{timedelta(seconds=round(seconds_left))} left")
        if (total := recent_mean(storage, "total_loss")) is not None:
            line.append(f"loss {total:.4g}")
        line += group_sums(storage)
        if (rate := recent_mean(storage, "lr")) is not None:
            line.append(f"lr {rate:.3g}")
        seconds, data_seconds = recent_mean(storage, "time"), recent_mean(storage, "data_time")
        if seconds is not None:
            data = f" (data {data_seconds:.2g} s)" if data_seconds is not None else ""
            line.append(f"{seconds:.3g} s a step{data}")
        if torch.cuda.is_available():
            line.append(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MB")
        logger.info("  ".join(line))

    def _seconds_left(self, storage: EventStorage) -> float | None:
        """Estimate from the recorded step times, or from the clock where there are none."""
        steps = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds_left = storage.history("time").median(1000) * steps
            storage.put_scalar("eta_seconds", seconds_left, smoothing_hint=False)
            return seconds_left
        current_time = time.perf_counter()
        if self._start is None:
            self._start = (storage.iter, current_time)
        elapsed_steps = storage.iter - self._start[0]
        return (current_time - self._start[1]) / elapsed_steps * steps if elapsed_steps else None


def recent_mean(storage: EventStorage, name: str) -> float | None:
    """Return the mean of a scalar over the last 20 iterations; None if it was not recorded."""
    if name not in storage.histories():
        return None
    recent = list(
        takewhile(
            lambda pair: pair[1] > storage.iter - WINDOW_SIZE,
            reversed(storage.history(name).values()),
        )
    )
    return fmean(value for value, _ in recent) if recent else None


def loss_group_sums(storage: EventStorage) -> dict[str, dict[str, float]]:
    """Sum the recent means of all loss terms by branch and group; denoising has the group ""."""
    sums: dict[str, dict[str, float]] = {}
    for term in storage.histories():
        group, value = loss_group(term), recent_mean(storage, term)
        if group is not None and value is not None:
            branch = sums.setdefault(group[0], {})
            branch[group[1]] = branch.get(group[1], 0.0) + value
    return sums


def group_sums(storage: EventStorage) -> list[str]:
    """Return one text per branch, such as "things ce 1.2 box 0.8 mask 2.1"."""
    sums = loss_group_sums(storage)
    return [
        " ".join([branch, *_format(sums[branch].items())])
        for branch in ("things", "stuff", "denoising")
        if branch in sums
    ]


def _format(sums: Iterable[tuple[str, float]]) -> list[str]:
    return [f"{group} {value:.3g}".strip() for group, value in sorted(sums)]


class LossGroupWriter(EventWriter):
    """Event writer that adds the sums of loss groups to the scalars of the writers after it.

    Their names are such as `losses/things_box`, `losses/stuff_mask` and `losses/denoising`; the
    values are those of the progress line.
    """

    def __init__(self) -> None:
        self._last_iteration = -1

    def write(self) -> None:
        """Add the sums of the current iteration, once."""
        storage = get_event_storage()
        terms = [name for name in storage.latest() if name.startswith(PREFIX)]
        newest = max((storage.latest()[name][1] for name in terms), default=-1)
        if newest <= self._last_iteration:  # called again at the end of training
            return
        self._last_iteration = newest
        for branch, groups in loss_group_sums(storage).items():
            for group, value in groups.items():
                name = GROUP_PREFIX + "_".join(filter(None, (branch, group)))
                storage.put_scalar(name, value, smoothing_hint=False)
