"""Devices that a configuration or a caller names."""

from __future__ import annotations

from typing import Any

import torch

from hipie.config.reading import ConfigError


def require_device(device: Any) -> torch.device:
    """Return a device on which tensors can be computed in this process.

    Args:
        device: what `torch.device` takes, such as "cpu", "cuda", "cuda:1", "mps" or 0.

    Raises:
        ConfigError: if there is no such kind of device, or none of that kind and number here.
    """
    try:
        parsed = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"the device {device!r} does not exist; it has to be cpu, cuda, cuda:1, mps or another "
            "kind of PyTorch's"
        ) from error
    if parsed.type == "cpu":
        return parsed
    try:
        if parsed.type == "meta":
            raise RuntimeError("tensors of this device have no values")
        torch.empty(1, device=parsed).fill_(1)
    except Exception as error:
        raise ConfigError(
            f"the device {device} is not available: PyTorch finds no driver or device of this "
            f"kind and number; available: {', '.join(_available())}"
        ) from error
    return parsed


def _available() -> list[str]:
    cuda = [
        f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    ]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *cuda, *mps]
