"""Copies between host and device for which the host waits once, or not at all.

A device runs behind the host. Reading one value of a tensor lets the host wait until the device has
computed it, and then the device waits for the host; so does a plain copy to the device. A training
step reads values in few places, and all that it needs in one copy.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# A computation that needs values on the host: it yields tensors and is sent their copies.
HostSteps = Generator[Sequence[Tensor], list[Tensor], T]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for it; the tensor itself if it is there.

    Memory of the host is pinned first where the device can read it directly.

    Args:
        tensor: on the host or on any device; not changed until the device has read it.
        device: of the result.
    """
    if tensor.device == device:
        return tensor
    if tensor.device.type == "cpu" and _reads_pinned_memory(device):
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copy tensors of one device to the host in one transfer, without gradients.

    Tensors on the host are returned as they are.

    Args:
        tensors: of any shapes and dtypes.
    """
    tensors = [tensor.detach() for tensor in tensors]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return tensors
    # Wide numbers first, so that every tensor starts at a multiple of its number's size.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    as_bytes = [tensors[i].reshape(-1).view(torch.uint8) for i in order]
    copied = torch.cat(as_bytes).cpu().split([len(part) for part in as_bytes])
    copies: list[Tensor] = list(tensors)
    for i, part in zip(order, copied, strict=True):
        copies[i] = part.view(tensors[i].dtype).view(tensors[i].shape)
    return copies


def join(*computations: HostSteps[Any]) -> HostSteps[list[Any]]:
    """Join computations: they take their steps together, and their tensors are copied together.

    Args:
        computations: advanced in this order.

    Returns:
        The result of every computation.
    """
    results: list[Any] = [None] * len(computations)
    requests: dict[int, Sequence[Tensor]] = {}

    def advance(i: int, copies: list[Tensor] | None) -> None:
        try:
            requests[i] = computations[i].send(copies)  # type: ignore[arg-type]
        except StopIteration as finished:
            requests.pop(i, None)
            results[i] = finished.value

    for i in range(len(computations)):
        advance(i, None)
    while requests:
        copies = yield [tensor for request in requests.values() for tensor in request]
        for i, request in list(requests.items()):
            advance(i, copies[: len(request)])
            copies = copies[len(request) :]
    return results


def run(computation: HostSteps[T]) -> T:
    """Run a computation, with one transfer a step.

    Args:
        computation: yields tensors of one device.
    """
    copies: list[Tensor] | None = None
    while True:
        try:
            request = computation.send(copies)  # type: ignore[arg-type]
        except StopIteration as finished:
            result: T = finished.value
            return result
        copies = to_host(request) if request else []


def _reads_pinned_memory(device: torch.device) -> bool:
    accelerator = torch.accelerator.current_accelerator()
    return accelerator is not None and accelerator.type == device.type
