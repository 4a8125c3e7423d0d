"""Export of a model's weights, for inference and as the start of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hipie import __version__
from hipie.checkpoint.atomic_write import write_atomically
from hipie.checkpoint.base import external_weight_prefixes
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.load import storage_key


def save_weights(
    model: nn.Module,
    path: str | Path,
    half: bool = True,
    exclude: Sequence[str] = (),
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of a model, each tensor once.

    Weights that an installed package provides are left out (see `hipie.checkpoint.base`).

    Args:
        model: any.
        path: `.safetensors`, or `.pth`, which Detectron2's own loader reads too.
        half: in float16, except tensors whose values are too large for it.
        exclude: prefixes of the names of further tensors to leave out.
        notes: metadata of a `.safetensors` file, such as how it was trained.

    Raises:
        CheckpointError: if nothing is left to write, or the file cannot be written.
    """
    left_out = (*external_weight_prefixes(model), *exclude)
    state: dict[str, Tensor] = {}
    written = set()
    for name, value in model.state_dict().items():
        key = storage_key(value)
        if not name.startswith(left_out) and key not in written:
            written.add(key)
            state[name] = to_half(value) if half else value
    write_state(state, path, {"left_out": " ".join(left_out), **(notes or {})})


def write_state(
    state: Mapping[str, Tensor], path: str | Path, notes: Mapping[str, str] | None = None
) -> None:
    """Write a state dict; see `save_weights`.

    Raises:
        CheckpointError: as there, and for another suffix than `.safetensors` and `.pth`.
    """
    if not state:
        raise CheckpointError(f"{path}: no tensor is left to write")
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    metadata = {"format": "pt", "hipie": __version__, **(notes or {})}
    if Path(path).suffix == ".safetensors":
        write_atomically(path, lambda name: save_file(tensors, name, metadata))
    elif Path(path).suffix == ".pth":
        content = {"model": tensors, "notes": metadata}
        write_atomically(path, lambda name: torch.save(content, name))
    else:
        raise CheckpointError(f"{path}: weights are written as .safetensors or .pth")


def to_half(value: Tensor) -> Tensor:
    """Convert a floating-point tensor to float16 if its values fit; return others unchanged."""
    if not value.is_floating_point():
        return value
    half = value.half()
    overflows = torch.isinf(half).any() and not torch.isinf(value).any()
    return value if overflows else half
