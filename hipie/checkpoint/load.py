"""Weights into a model, with a report of what fitted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from hipie.checkpoint.base import checkpoint_converters, external_weight_prefixes
from hipie.checkpoint.converters.conversion import convert_state
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.read import read_state, strip_module_prefix
from hipie.checkpoint.report import LoadReport

# A file with more tensors than this share that do not fit belongs to another model, unless it
# holds as large a share of this one as it lacks at most.
MOST_UNKNOWN = 0.01


def load_weights(model: nn.Module, path: str | Path) -> LoadReport:
    """Read a file of weights, convert it to our names, and load it.

    Args:
        model: takes what fits, in its own precision and on its own device.
        path: `.safetensors`, `.pth` or `.pkl`; a file, `detectron2://...` or `https://...`.

    Raises:
        CheckpointError: if the file cannot be read, or is of another model, which is then left
            as it was.
    """
    return load_state(model, read_state(path)["model"], str(path))


def load_state(
    model: nn.Module, state: dict[str, Tensor], origin: str, *, in_part: bool = False
) -> LoadReport:
    """Load named tensors, in any layout that `formats` knows; see `load_weights`.

    Args:
        model: takes what fits.
        state: names to tensors.
        origin: named in errors.
        in_part: the tensors are of a part of the model (a backbone) with a head of its own, so
            that it is enough if some fit.
    """
    found = convert_state(strip_module_prefix(state), checkpoint_converters(model))
    own = model.state_dict()
    unexpected = [name for name in found.state if name not in own]
    mismatched = [
        name
        for name, value in found.state.items()
        if name in own and value.shape != own[name].shape
    ]
    wrong = {*unexpected, *mismatched}
    fitting = {name: value for name, value in found.state.items() if name not in wrong}
    too_many = not in_part and found.complete and len(wrong) > MOST_UNKNOWN * len(found.state)
    if not fitting or (too_many and len(fitting) < (1 - MOST_UNKNOWN) * len(own)):
        raise CheckpointError(_another_model(origin, model, found.state, own, wrong))
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        tuple(_missing(model, own, fitting)),
        tuple(unexpected),
        tuple(mismatched),
        found.dropped,
        len(fitting),
    )


def _missing(model: nn.Module, own: dict[str, Tensor], fitting: Iterable[str]) -> list[str]:
    """Names that the file lacks, and that neither a package nor another name has filled."""
    elsewhere = external_weight_prefixes(model)
    places = defaultdict(set)
    for name, value in own.items():
        places[storage(value)].add(name)
    loaded = set(fitting)
    return [
        name
        for name, value in own.items()
        if not loaded & {name, *places[storage(value)]} and not name.startswith(elsewhere)
    ]


def storage(value: Tensor) -> tuple[object, ...]:
    """Equal for two names of one tensor; unlike for tensors without elements."""
    if not value.numel():
        return (id(value),)
    return (value.device, value.data_ptr(), value.shape, value.stride())


def _another_model(
    origin: str,
    model: nn.Module,
    state: dict[str, Tensor],
    own: dict[str, Tensor],
    wrong: set[str],
) -> str:
    name = next((name for name in state if name in wrong), "")
    if not name:
        return f"{origin}: none of its tensors is for this {type(model).__name__}"
    why = "the model has no such tensor"
    theirs, ours = _backbone_kind(state), _backbone_kind(own)
    if theirs and ours and theirs != ours:
        return (
            f"{origin}: these are weights of a model with {theirs} as backbone, and this "
            f"{type(model).__name__} has {ours}; the configuration must name the same"
        )
    if name in own:
        why = f"it is {_shape(state[name])} there and {_shape(own[name])} in the model"
    return (
        f"{origin}: these are weights of another model than this {type(model).__name__}: "
        f'{len(wrong)} of {len(state)} tensors do not fit, the first is "{name}" ({why})'
    )


def _backbone_kind(names: Iterable[str]) -> str:
    """What the names under `backbone.` tell; "" for kinds that are not known here."""
    kinds = {
        "backbone.res2.": "a ResNet",
        "backbone.blocks.": "a ViT",
        "backbone.net.": "a timm network",
    }
    for name in names:
        for beginning, kind in kinds.items():
            if name.startswith(beginning):
                return kind
    return ""


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"
