"""Weights into a model, with a report of what fitted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from hipie.checkpoint.files import CheckpointError, read_state, write_atomically
from hipie.checkpoint.formats import to_ours

# A file with more unknown names than this share belongs to another model.
MOST_UNKNOWN = 0.01


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a file.

    Attributes:
        missing: the model has them, the file does not.
        unexpected: the file has them, the model does not.
        mismatched: both have them, in different shapes.
        dropped: left out on purpose.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    dropped: tuple[str, ...] = field(default=())

    @property
    def complete(self) -> bool:
        """Whether everything fitted."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        counts = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.mismatched,
            "left out": self.dropped,
        }
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in counts.items()
            if names
        ]
        return "; ".join(parts) or "every tensor fits"


def load_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Read a file of weights, convert it to our names, and load it.

    Args:
        model: takes what fits, in its own precision.
        path: `.safetensors`, `.pth` or `.pkl`.

    Raises:
        CheckpointError: if the file cannot be read, or is of another model.
    """
    return load_state(model, read_state(path)["model"], str(path))


def load_state(model: nn.Module, state: dict[str, Tensor], origin: str) -> LoadReport:
    """Load named tensors; see `load_weights`.

    Args:
        model: takes what fits.
        state: names to tensors, in any layout that `formats` knows.
        origin: named in errors.
    """
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    ours, dropped, layout = to_ours(tensors)
    own = model.state_dict()
    unexpected = [key for key in ours if key not in own]
    mismatched = [key for key in ours if key in own and ours[key].shape != own[key].shape]
    wrong = set(unexpected) | set(mismatched)
    fitting = {key: value for key, value in ours.items() if key not in wrong}
    if len(wrong) > MOST_UNKNOWN * max(len(ours), 1) and not _same_model(len(fitting), len(own)):
        example = (unexpected or mismatched)[0]
        raise CheckpointError(
            f"{origin}: these are weights of another model: {len(wrong)} of its {len(ours)} tensors "
            f'({layout} layout) do not fit, for instance "{example}"'
        )
    elsewhere = prefixes_from_elsewhere(model)
    missing = [k for k in own if k not in fitting and not k.startswith(elsewhere or ("\0",))]
    model.load_state_dict(fitting, strict=False)
    return LoadReport(tuple(missing), tuple(unexpected), tuple(mismatched), tuple(dropped))


def save_weights(model: nn.Module, path: str | Path, half: bool = True) -> None:
    """Write a model's weights alone, for inference and as the start of training.

    What comes from an installed package anyway is left out.

    Args:
        model: any.
        path: `.safetensors`, or `.pth` in Detectron2's form, which its own loader reads too.
        half: in float16.

    Raises:
        CheckpointError: if the file cannot be written.
    """
    elsewhere = prefixes_from_elsewhere(model)
    state = {
        key: _shrink(value, half)
        for key, value in model.state_dict().items()
        if not (elsewhere and key.startswith(elsewhere))
    }
    if Path(path).suffix == ".safetensors":
        from safetensors.torch import save_file

        write_atomically(path, lambda name: save_file(state, name))
    else:
        write_atomically(path, lambda name: torch.save({"model": state}, name))


def prefixes_from_elsewhere(model: nn.Module) -> tuple[str, ...]:
    """Beginnings of the names of tensors that need not be in a checkpoint.

    A module says so with `weights_from_elsewhere() -> bool`.
    """
    return tuple(
        f"{name}."
        for name, module in model.named_modules()
        if getattr(module, "weights_from_elsewhere", lambda: False)()
    )


def _same_model(fitting: int, own: int) -> bool:
    """Whether nearly all of a model is in a file that holds other things besides."""
    return fitting > (1 - MOST_UNKNOWN) * own


def _shrink(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.is_floating_point() else value.clone()
