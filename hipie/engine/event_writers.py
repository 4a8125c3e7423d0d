"""Training's progress on one line: losses summed by family, where there are over a hundred terms.

TensorBoard and `metrics.json` keep every term.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable
from datetime import timedelta
from itertools import takewhile
from statistics import fmean

import torch
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage

logger = logging.getLogger(__name__)

WINDOW_SIZE = 20
_TERM = re.compile(r"loss_(ce|bbox|giou|boxiou|mask|dice)(?=_|$)")
_KINDS = {"ce": "ce", "bbox": "box", "giou": "box", "boxiou": "box", "mask": "mask", "dice": "mask"}


def family(term: str) -> tuple[str, str] | None:
    """The family of a loss term: ("things" | "stuff", "ce" | "box" | "mask"), or ("denoising", "").

    Denoising of things shares its terms with the thing decoder's layers and counts there.

    >>> family("loss_giou_2_maskdino")
    ('stuff', 'box')

    Returns:
        None for what is no loss term of the two branches.
    """
    found = _TERM.match(term)
    if found is None:
        return None
    rest = term[found.end() :]
    if "_dn" in rest:
        return "denoising", ""
    branch = "stuff" if rest.endswith("_maskdino") else "things"
    return branch, _KINDS[found.group(1)]


class ProgressPrinter(EventWriter):
    """Logs one line: iteration, time left, total loss, its families, seconds a step.

    Numbers are means over the last 20 iterations. A term that only some tasks have is averaged
    over the iterations that have it, so the families need not add up to the total.

    Args:
        max_iter: the number of iterations; decides the time left.
    """

    def __init__(self, max_iter: int) -> None:
        self._max_iter = max_iter
        self._began: tuple[int, float] | None = None

    def write(self) -> None:
        """Log the line of the current iteration."""
        storage = get_event_storage()
        if storage.iter >= self._max_iter:
            return
        line = [f"{storage.iter + 1}/{self._max_iter}"]
        left = self._seconds_left(storage)
        if left is not None:
            line.append(f"{timedelta(seconds=round(left))} left")
        if (total := recent_mean(storage, "total_loss")) is not None:
            line.append(f"loss {total:.4g}")
        line += family_sums(storage)
        if (rate := recent_mean(storage, "lr")) is not None:
            line.append(f"lr {rate:.3g}")
        seconds, waited = recent_mean(storage, "time"), recent_mean(storage, "data_time")
        if seconds is not None:
            data = f" (data {waited:.2g} s)" if waited is not None else ""
            line.append(f"{seconds:.3g} s a step{data}")
        if torch.cuda.is_available():
            line.append(f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MB")
        logger.info("  ".join(line))

    def _seconds_left(self, storage: EventStorage) -> float | None:
        """By the steps so far: their recorded times, or the clock where there are none."""
        steps = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            left = storage.history("time").median(1000) * steps
            storage.put_scalar("eta_seconds", left, smoothing_hint=False)
            return left
        now = time.perf_counter()
        if self._began is None:
            self._began = (storage.iter, now)
        done = storage.iter - self._began[0]
        return (now - self._began[1]) / done * steps if done else None


def recent_mean(storage: EventStorage, name: str) -> float | None:
    """The mean of what was recorded in the last 20 iterations; None if nothing was."""
    if name not in storage.histories():
        return None
    recent = list(
        takewhile(
            lambda pair: pair[1] > storage.iter - WINDOW_SIZE,
            reversed(storage.history(name).values()),
        )
    )
    return fmean(value for value, _ in recent) if recent else None


def family_sums(storage: EventStorage) -> list[str]:
    """One text a branch, such as "things ce 1.2 box 0.8 mask 2.1"."""
    sums: dict[str, dict[str, float]] = {}
    for term in storage.histories():
        place, value = family(term), recent_mean(storage, term)
        if place is not None and value is not None:
            kinds = sums.setdefault(place[0], {})
            kinds[place[1]] = kinds.get(place[1], 0.0) + value
    return [
        " ".join([branch, *_numbers(sums[branch].items())])
        for branch in ("things", "stuff", "denoising")
        if branch in sums
    ]


def _numbers(kinds: Iterable[tuple[str, float]]) -> list[str]:
    return [f"{kind} {value:.3g}".strip() for kind, value in sorted(kinds)]
