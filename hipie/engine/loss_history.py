"""Losses of the recent steps, which stay on the device until they are written."""

from __future__ import annotations

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor

from hipie.modeling.device_transfer import to_host


class LossHistory:
    """Losses by iteration, copied to the event storage together, in one transfer.

    Args:
        period: iterations after which they are copied, unless `write` is called before.
    """

    def __init__(self, period: int) -> None:
        self._period = period
        self._steps: list[tuple[int, tuple[str, ...], Tensor]] = []

    def add(self, iteration: int, names: tuple[str, ...], values: Tensor) -> None:
        """Add the losses of an iteration.

        Args:
            iteration: counted from 0.
            names: of the losses.
            values: [n], not changed later.
        """
        self._steps.append((iteration, names, values))
        if len(self._steps) >= self._period:
            self.write()

    def write(self) -> None:
        """Put all losses into the current event storage, each at its iteration."""
        if not self._steps:
            return
        storage = get_event_storage()
        (copied,) = to_host([torch.cat([values for _, _, values in self._steps])])
        numbers = iter(copied.tolist())
        for iteration, names, _ in self._steps:
            for name in names:
                storage.put_scalar(name, next(numbers), cur_iter=iteration)
        self._steps.clear()
