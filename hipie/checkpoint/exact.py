"""Loading of checkpoints that must have exactly the tensors of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.read import read_state, strip_module_prefix


def load_exact_weights(model: nn.Module, path: str | Path, model_name: str) -> None:
    """Load a file that has every tensor of a model and no other.

    Args:
        model: loads the tensors in its own precision.
        path: see `hipie.checkpoint.read.read_state`.
        model_name: used in error messages.

    Raises:
        CheckpointError: if the file cannot be read, or naming the first tensor that differs.
    """
    state = strip_module_prefix(read_state(path)["model"])
    check_exact_state(model.state_dict(), state, path, model_name)
    model.load_state_dict(state)


def check_exact_state(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: str | Path, model_name: str
) -> None:
    """Check that two state dicts have the same names and shapes.

    Args:
        own: state dict of the model.
        state: state dict of the file.
        path: of the file, used in error messages.
        model_name: likewise.

    Raises:
        CheckpointError: naming the first tensor that differs.
    """
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise CheckpointError(f'{path} has no "{name}", so it is not a {model_name}')
        if name not in own:
            raise CheckpointError(f'{path} has a "{name}", so it is not a {model_name}')
        if state[name].shape != own[name].shape:
            raise CheckpointError(
                f'{path}: "{name}" is {tuple(state[name].shape)} in the file and '
                f"{tuple(own[name].shape)} in a {model_name}"
            )
