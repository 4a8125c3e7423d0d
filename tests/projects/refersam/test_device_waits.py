"""How often a training step of ReferSAM waits for the device, on a simulated one."""

from __future__ import annotations

import torch

from tests.simulated_device import SimulatedDevice, to_device

MOST = 5


def test_a_training_step_waits_a_few_times_only(make_model, item):
    """Two images with three expressions each."""
    model = make_model().train()
    torch.manual_seed(1)
    expected = model([item, item])
    to_device(model)
    torch.manual_seed(1)
    with SimulatedDevice() as device:
        losses = model([item, item])
        assert sum(device.waits.values()) <= MOST, device.report()
        sum(losses.values()).backward()
        assert sum(device.waits.values()) <= MOST, device.report()
    for name, loss in losses.items():
        torch.testing.assert_close(loss.inner, expected[name], msg=name, atol=1e-3, rtol=1e-3)
