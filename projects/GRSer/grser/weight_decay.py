"""Parameters without weight decay: norms, and Swin's relative position bias tables."""

from __future__ import annotations

from torch import nn

NORMS = (nn.LayerNorm, nn.BatchNorm2d)
BIAS_TABLE = "relative_position_bias_table"


def parameters_without_weight_decay(model: nn.Module) -> set[str]:
    """Return the names of a model's parameters that have no weight decay."""
    names = {name for name, _ in model.named_parameters() if name.endswith(BIAS_TABLE)}
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS):
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    return names
