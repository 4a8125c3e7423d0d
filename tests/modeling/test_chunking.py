"""Chunks depend on the device alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.modeling.backbone.vit import Attention
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hipie.modeling.backbone.vit_attention import GridAttention
from hipie.modeling.chunking import (
    ACCELERATOR_BYTES,
    ACCELERATOR_MASK_BYTES,
    CPU_BYTES,
    CPU_MASK_BYTES,
    chunk_length,
    concatenate,
    mask_bytes,
    working_bytes,
)
from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion
from hipie.modeling.heads.dynamic_mask_head import DynamicMaskHead
from tests.simulated_device import DEVICE, DeviceTensor, SimulatedDevice, to_device

CPU, META = torch.device("cpu"), torch.device("meta")


def test_policy() -> None:
    assert chunk_length(5000, 2048, CPU) == 2048
    assert chunk_length(100, 2048, CPU) == 100
    assert chunk_length(0, 2048, CPU) == chunk_length(0, 2048, META) == chunk_length(9, 0, CPU) == 1
    assert chunk_length(5000, 2048, META) == chunk_length(5000, 2048, DEVICE) == 5000
    assert working_bytes(CPU) == CPU_BYTES < working_bytes(META) == ACCELERATOR_BYTES
    assert working_bytes(CPU, 99) == 99
    assert mask_bytes(CPU) == CPU_MASK_BYTES < mask_bytes(META) == ACCELERATOR_MASK_BYTES
    assert mask_bytes(DEVICE) == ACCELERATOR_MASK_BYTES
    assert working_bytes(DEVICE, 99) == ACCELERATOR_BYTES


def test_a_single_chunk_is_not_copied() -> None:
    chunk = torch.rand(2, 3)
    assert concatenate([chunk]) is chunk
    assert torch.equal(concatenate(chunk.split(1, dim=1), dim=1), chunk)


class CpuOperators(TorchDispatchMode):
    """Counts operators on the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators[str(func)] += 1
        return func(*args, **(kwargs or {}))


def grid_attention() -> tuple[nn.Module, list[Tensor]]:
    attention = Attention(8, 2, use_rel_pos=True, input_size=(6, 5))
    return GridAttention.from_attention(attention), [torch.rand(1, 6, 5, 8)]


def mask_head() -> tuple[nn.Module, list[Any]]:
    index = torch.zeros(9, dtype=torch.long)
    arguments = [[torch.rand(4, 3, 5)], torch.rand(9, 12), torch.rand(9, 2), index, [9]]
    return DynamicMaskHead(12, channels=4), arguments


def fusion() -> tuple[nn.Module, list[Tensor]]:
    mask = torch.ones(1, 3, dtype=torch.bool)
    return BidirectionalFusion(8, 6, 12, 3).eval(), [torch.rand(1, 9, 8), torch.rand(1, 3, 6), mask]


@pytest.mark.parametrize(
    ("build", "limit"),
    [
        (grid_attention, "hipie.modeling.backbone.vit_attention.WORKING_BYTES"),
        (mask_head, "hipie.modeling.heads.dynamic_mask_head.QUERIES_PER_CHUNK"),
        (fusion, "hipie.modeling.fusion.bidirectional_attention.WORKING_BYTES"),
    ],
)
@pytest.mark.parametrize("gradients", [False, True])
def test_an_accelerator_processes_everything_at_once(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[], Any], limit: str, gradients: bool
) -> None:
    module, arguments = build()

    def on_cpu() -> int:
        with torch.set_grad_enabled(gradients), CpuOperators() as counted:
            module(*arguments)
        return counted.operators.total()

    def move(argument: Any) -> Any:
        if isinstance(argument, list):
            return [move(item) for item in argument]
        return DeviceTensor(argument) if isinstance(argument, Tensor) else argument

    def on_device() -> int:
        with torch.set_grad_enabled(gradients), SimulatedDevice() as device:
            moved(*move(arguments))
        return device.operators.total()

    whole = on_cpu()
    monkeypatch.setattr(limit, 1)
    in_chunks = on_cpu()
    moved = to_device(build()[0])
    monkeypatch.setattr(limit, 2**40)
    expected = on_device()
    monkeypatch.setattr(limit, 1)
    assert on_device() == expected
    assert in_chunks > whole
