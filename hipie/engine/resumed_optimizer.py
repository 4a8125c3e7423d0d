"""Optimizers of resumed runs: the state is the checkpoint's, the hyperparameters are the keys'."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hipie.errors import InputError
from hipie.logs import get_logger

logger = get_logger(__name__)

# Entries of a parameter group that are not hyperparameters of the configuration.
_STATE = ("params", "lr")


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters of every group of an optimizer."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]


def check_same_parameters(
    saved: dict[str, Any], saved_names: list[list[str]] | None, own: dict[str, Any], names: Any
) -> None:
    """Check that the saved state of an optimizer is of the same kind and of the same groups.

    Args:
        saved: state dict of the optimizer in the checkpoint.
        saved_names: `parameter_names` in the checkpoint; None in one of another program.
        own: state dict of this run's optimizer.
        names: its `parameter_names`.

    Raises:
        InputError: saying which keys differ between the two runs.
    """
    kinds = [{"betas", "momentum"} & set(s["param_groups"][0]) for s in (saved, own)]
    if kinds[0] != kinds[1]:
        raise InputError(
            "SOLVER.OPTIMIZER differs from that of the interrupted run, whose state does not fit"
        )
    sizes = [[len(group["params"]) for group in s["param_groups"]] for s in (saved, own)]
    if sizes[0] == sizes[1] and saved_names in (None, names):
        return
    trained = [
        {name for group in groups or () for name in group} for groups in (saved_names, names)
    ]
    reason = "learning rates or weight decays are distributed in another way (SOLVER.*_MULTIPLIER)"
    if sum(sizes[0]) != sum(sizes[1]) or (saved_names is not None and trained[0] != trained[1]):
        reason = (
            f"{sum(sizes[0])} parameters were trained in it, and {sum(sizes[1])} are now "
            "(MODEL.FREEZE, MODEL.BACKBONE.FREEZE_AT, MODEL.HIPIE.TEXT.FROZEN or the architecture)"
        )
    raise InputError(
        f"the optimizer's groups differ from those of the interrupted run: {reason}; use the same "
        "keys, or start a new run from its weights by MODEL.WEIGHTS"
    )


def hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Return the hyperparameters of every group, as the configuration has them before a load."""
    return [
        {key: value for key, value in group.items() if key not in _STATE}
        for group in optimizer.param_groups
    ]


def apply_hyperparameters(
    optimizer: torch.optim.Optimizer, configured: list[dict[str, Any]], scheduler: Any
) -> list[str]:
    """Replace the hyperparameters of a loaded state by those of the configuration.

    Without a difference nothing changes, bit by bit.

    Args:
        optimizer: with the loaded state.
        configured: result of `hyperparameters` before the load.
        scheduler: of the learning rate, with the loaded state.

    Returns:
        Descriptions of what changed.
    """
    changes: dict[str, None] = {}
    is_new_rate = False
    for group, values in zip(optimizer.param_groups, configured, strict=True):
        for key, value in values.items():
            if group.get(key, value) != value:
                is_new_rate |= key == "initial_lr"
                shown = "base learning rate" if key == "initial_lr" else key
                changes[f"{shown} {group[key]} -> {value}"] = None
                group[key] = value
    if is_new_rate:
        scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate
    return list(changes)
