"""Weights that need not be in a checkpoint, since an installed package carries them.

A module says so with a method `weights_from_elsewhere() -> bool`: true where its own weights, those
of its children included, were read from a package and are not trained.
"""

from __future__ import annotations

from torch import nn


def prefixes_from_elsewhere(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of such tensors: `("text_encoder.",)`."""
    return tuple(
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if getattr(module, "weights_from_elsewhere", _no)()
    )


def _no() -> bool:
    return False
