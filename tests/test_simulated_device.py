"""The simulated device counts what lets the host wait, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from hipie.modeling.device_transfer import join, run, to_host
from hipie.modeling.device_transfer import to_device as copy_to_device
from tests.simulated_device import DEVICE, DeviceTensor, SimulatedDevice, to_device

WAITS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "float": lambda x: float(x[0]),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "equal": lambda x: torch.equal(x, x),
    "nonzero": lambda x: x.nonzero(),
    "boolean index": lambda x: x[x > 0],
    "boolean assignment": lambda x: x.__setitem__(x > 0, x[:1]),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones_like(x).long()),
    "bincount": lambda x: torch.bincount(x.long()),
    "tensor": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "as_tensor": lambda x: torch.as_tensor([1], device=x.device),
    "blocking copy": lambda x: torch.ones(2).to(x.device),
    "copy_": lambda x: x.copy_(torch.ones(4)),
    "list index": lambda x: x[[0, 2]],
    "one_hot": lambda x: torch.nn.functional.one_hot(x.long()),
}
RUNS_ON: dict[str, Callable[[torch.Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).softmax(0).sum(),
    "index": lambda x: x[torch.arange(2, device=x.device)],
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.0),
    "factory": lambda x: torch.rand(3, device=x.device) + torch.zeros(3, device=x.device),
    "copy": lambda x: copy_to_device(torch.ones(2), x.device),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones_like(x).long(), output_size=4),
    "in place": lambda x: x.clone().mul_(2).__setitem__(0, 1.0),
}


@pytest.fixture
def values():
    """Four numbers on the device."""
    with SimulatedDevice():
        return torch.arange(4.0).to(DEVICE)


@pytest.mark.parametrize("name", WAITS)
def test_waiting_is_counted(name, values):
    with SimulatedDevice() as device:
        WAITS[name](values)
    assert sum(device.waits.values()) >= 1


@pytest.mark.parametrize("name", RUNS_ON)
def test_running_on_is_not_counted(name, values):
    with SimulatedDevice() as device:
        RUNS_ON[name](values)
    assert device.operators and not device.waits


def test_mixing_devices_is_refused(values):
    with SimulatedDevice(), pytest.raises(RuntimeError, match="on the host"):
        values + torch.ones(4)


def test_a_network_trains_as_on_the_cpu():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
    inputs = torch.randn(5, 4)
    network(inputs).sum().backward()
    expected = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    to_device(network)
    with SimulatedDevice() as device:
        network(copy_to_device(inputs, DEVICE)).sum().backward()
    assert not device.waits
    for parameter, grad in zip(network.parameters(), expected, strict=True):
        assert isinstance(parameter.grad, DeviceTensor)
        torch.testing.assert_close(parameter.grad.inner, grad)


def test_tensors_of_any_type_reach_the_host_in_one_transfer():
    tensors = [
        torch.tensor([True, False, True]),
        torch.randn(2, 3, requires_grad=True),
        torch.tensor(7),
        torch.zeros(0, 4),
        torch.randn(3).bfloat16(),
        torch.randn(4, 5, dtype=torch.double).T,
    ]
    with SimulatedDevice() as device:
        copies = to_host([copy_to_device(tensor, DEVICE) for tensor in tensors])
        assert sum(device.waits.values()) == 1
    for copied, tensor in zip(copies, tensors, strict=True):
        assert copied.dtype == tensor.dtype and not copied.requires_grad
        assert torch.equal(copied, tensor)


def test_joined_computations_share_their_transfers():
    def add_up(values, rounds):
        total = 0.0
        for _ in range(rounds):
            first, second = yield [values, values.sum()]
            total += float(first[0] + second)
        return total

    def nothing():
        return "nothing"
        yield []

    with SimulatedDevice() as device:
        values = copy_to_device(torch.tensor([1.0, 2.0]), DEVICE)
        results = run(join(add_up(values, 3), nothing(), join(add_up(values, 1))))
        assert results == [12.0, "nothing", [4.0]]
        assert sum(device.waits.values()) == 3
