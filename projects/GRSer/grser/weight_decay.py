"""Which parameters are not pulled towards 0: norms, and Swin's tables of relative positions."""

from __future__ import annotations

from torch import nn

NORMS = (nn.LayerNorm, nn.BatchNorm2d)
TABLE = "relative_position_bias_table"


def names_without_decay(model: nn.Module) -> set[str]:
    """Names of such parameters."""
    names = {name for name, _ in model.named_parameters() if name.endswith(TABLE)}
    for place, module in model.named_modules():
        if isinstance(module, NORMS):
            names |= {f"{place}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
