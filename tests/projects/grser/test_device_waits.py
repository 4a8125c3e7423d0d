"""How often a training step of GRSer waits for the device, on a simulated one."""

from __future__ import annotations

import pytest
import torch

from tests.simulated_device import SimulatedDevice, to_device

MOST = 5


@pytest.mark.parametrize("sizes", [(3,), (3, 2)])
def test_a_training_step_waits_a_few_times_only(make_model, make_group, sizes):
    model = make_model(heatmap_weight=1.0).train()
    groups = [make_group(*[i % 2 == 0 for i in range(size)]) for size in sizes]
    torch.manual_seed(1)
    expected = model(groups)
    to_device(model)
    torch.manual_seed(1)
    with SimulatedDevice() as device:
        losses = model(groups)
        assert sum(device.waits.values()) <= MOST, device.report()
        sum(losses.values()).backward()
        assert sum(device.waits.values()) <= MOST, device.report()
    for name, loss in losses.items():
        torch.testing.assert_close(loss.inner, expected[name], msg=name, atol=1e-4, rtol=1e-4)
