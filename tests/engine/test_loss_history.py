"""Losses stay on the device and reach the event storage in one transfer a period."""

from __future__ import annotations

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from hipie.engine.loss_history import LossHistory
from hipie.engine.optimizer import build_optimizer
from hipie.engine.trainer import SeededTrainer
from hipie.modeling.device_transfer import to_device as copy_to_device
from tests.simulated_device import DEVICE, SimulatedDevice, to_device

PERIOD = 20


def test_losses_are_copied_together_with_their_iterations():
    history = LossHistory(3)
    with EventStorage(10) as storage, SimulatedDevice() as device:
        for i in range(7):
            names = ("loss_a", "loss_b") if i % 2 else ("loss_a",)
            values = torch.tensor([float(i), 10.0 * i])[: len(names)]
            history.add(10 + i, names, copy_to_device(values, DEVICE))
        assert sum(device.waits.values()) == 2
        assert storage.history("loss_a").values() == [(float(i), 10 + i) for i in range(6)]
        history.write()
        history.write()
        assert sum(device.waits.values()) == 3
        assert storage.history("loss_a").values()[-1] == (6.0, 16)
        assert storage.history("loss_b").values() == [(10.0 * i, 10 + i) for i in (1, 3, 5)]


class TwoLosses(nn.Module):
    """A layer with two losses."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = self.layer(batch).pow(2).mean(0)
        return {"loss_a": first, "loss_b": second}


def test_a_training_step_waits_once_and_once_a_period(tiny_cfg):
    """Skipping a step or not is the only decision of the host."""
    model = TwoLosses()
    with SimulatedDevice() as device:
        to_device(model)
        batches = [copy_to_device(torch.randn(3, 4), DEVICE) for _ in range(2 * PERIOD)]
        optimizer = build_optimizer(tiny_cfg, model)
        trainer = SeededTrainer(model, batches, optimizer, seed=0)
        device.reset()
        with EventStorage(0) as storage:
            for iteration in range(2 * PERIOD):
                trainer.iter = storage.iter = iteration
                trainer.run_step()
        assert sum(device.waits.values()) == 2 * PERIOD + 2, device.report()
    totals = storage.history("total_loss").values()
    for term_a, term_b, total in zip(
        storage.history("loss_a").values(),
        storage.history("loss_b").values(),
        totals,
        strict=True,
    ):
        assert term_a[1] == term_b[1] == total[1]
        assert term_a[0] + term_b[0] == pytest.approx(total[0], rel=1e-5)
    assert len(totals) == 2 * PERIOD
