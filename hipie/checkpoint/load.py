"""Loading of weights into a model, with a report of missing, unexpected and mismatched tensors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hipie.checkpoint.base import checkpoint_converters, external_weight_prefixes
from hipie.checkpoint.converters.conversion import convert_state
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.read import read_state, unwrap_names

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# A file belongs to another model if more than this share of its tensors do not fit, unless the
# model lacks at most this share.
MAX_MISFIT_SHARE = 0.01
# Names of each kind that a report lists.
MAX_LISTED = 3
# First name component below `backbone.` -> description, for messages.
BACKBONES = {
    "backbone.res2.": "a ResNet",
    "backbone.blocks.": "a ViT",
    "backbone.net.": "a timm network",
    "backbone.layers.": "a Swin transformer",
    "backbone.bottom_up.": "a feature pyramid",
}


@dataclass(frozen=True)
class LoadReport:
    """Result of loading weights.

    Attributes:
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        mismatched: names that both have, with different shapes.
        dropped: the file's own names that were left out on purpose.
        loaded: number of tensors that were loaded.
        excluded: names in the model's terms that were left out on request.
        not_finite: names of loaded tensors that hold NaN or infinite values.
        modules: of a partial load, module -> (tensors loaded, tensors of the model).
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    loaded: int = 0
    excluded: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()
    modules: tuple[tuple[str, int, int], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the tensors of the file are exactly those of the model, with finite values."""
        problems = (self.missing, self.unexpected, self.mismatched, self.excluded, self.not_finite)
        return not any(problems)

    def __str__(self) -> str:
        parts = [
            _listed(self.missing, "not in the file, left as built"),
            _listed(self.unexpected, "not in the model, ignored"),
            _listed(self.mismatched, "of another shape, ignored"),
            _listed(self.dropped, "left out on purpose"),
            _listed(self.excluded, "excluded on request"),
            _listed(self.not_finite, "with NaN or infinite values"),
            ", ".join(f"{name}: {loaded} of {count}" for name, loaded, count in self.modules),
        ]
        return "; ".join([f"{self.loaded} tensors loaded", *filter(None, parts)])


def load_weights(model: nn.Module, path: str | Path, exclude: Sequence[str] = ()) -> LoadReport:
    """Read a file of weights, convert it to the model's parameter names, and load it.

    Args:
        model: loads the tensors that fit, in its own precision and on its own device.
        path: `.safetensors`, `.pth` or `.pkl`; a file, `detectron2://...` or `https://...`.
        exclude: see `load_state`.

    Raises:
        CheckpointError: if the file cannot be read, or is of another model, which is then left
            unchanged.
    """
    return load_state(model, read_state(path)["model"], str(path), exclude=exclude)


def load_state(
    model: nn.Module,
    state: dict[str, Tensor],
    origin: str,
    *,
    in_part: bool = False,
    exclude: Sequence[str] = (),
    same_shapes: bool = False,
) -> LoadReport:
    """Load a state dict in any layout that the model's converters recognise.

    Args:
        model: loads the tensors that fit.
        state: tensors by name.
        origin: named in errors.
        in_part: the tensors are of a part of the model (a backbone) with a head of its own, so that
            it is enough that some fit.
        exclude: prefixes or patterns (`fnmatch`) of the model's names that are not loaded. What
            else does not fit, as the projections of another backbone, is then left as built, too;
            the report counts both by module.
        same_shapes: refuse a tensor of another shape than in the model, unless the file is of a
            part of the model, or `exclude` is given.

    Raises:
        CheckpointError: see `load_weights`; or naming the tensor of another shape. The model is
            unchanged.
    """
    converted = convert_state(unwrap_names(state, model.state_dict()), checkpoint_converters(model))
    model_state = model.state_dict()
    excluded = _excluded(converted.state, exclude, origin)
    for name in excluded:
        del converted.state[name]
    unexpected = [name for name in converted.state if name not in model_state]
    mismatched = [
        name
        for name, value in converted.state.items()
        if name in model_state and value.shape != model_state[name].shape
    ]
    rejected = {*unexpected, *mismatched}
    loadable = {name: value for name, value in converted.state.items() if name not in rejected}
    strict = not in_part and converted.complete and not exclude
    too_many = strict and len(rejected) > MAX_MISFIT_SHARE * len(converted.state)
    if not loadable or (too_many and len(loadable) < (1 - MAX_MISFIT_SHARE) * len(model_state)):
        raise CheckpointError(
            _other_model_message(origin, model, converted.state, model_state, rejected)
        )
    if same_shapes and strict and mismatched:
        name = mismatched[0]
        others = f" and {len(mismatched) - 1} more" if len(mismatched) > 1 else ""
        raise CheckpointError(
            f'{origin}: "{name}"{others} is {_shape(converted.state[name])} in the file and '
            f"{_shape(model_state[name])} in this model: the configuration needs the sizes that "
            f"the weights were made with; a training may start without it by --exclude {name}"
        )
    model.load_state_dict(_on_shares(loadable, model_state), strict=False)
    report = LoadReport(
        tuple(_missing(model, model_state, loadable)),
        tuple(unexpected),
        tuple(mismatched),
        converted.dropped,
        len(loadable),
        tuple(excluded),
        tuple(name for name, value in loadable.items() if not _is_finite(value)),
    )
    return replace(report, modules=_by_module(model_state, loadable)) if exclude else report


def load_exact_weights(model: nn.Module, path: str | Path, model_name: str) -> None:
    """Load a file that has every tensor of a model and no other.

    Args:
        model: loads the tensors in its own precision.
        path: see `hipie.checkpoint.read.read_state`.
        model_name: used in error messages.

    Raises:
        CheckpointError: if the file cannot be read, or naming the first tensor that differs.
    """
    state = unwrap_names(read_state(path)["model"], model.state_dict())
    check_exact_state(model.state_dict(), state, path, model_name)
    model.load_state_dict(state)


def check_exact_state(
    model_state: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    path: str | Path,
    model_name: str,
) -> None:
    """Check that two state dicts have the same names and shapes.

    Args:
        model_state: state dict of the model.
        state: state dict of the file.
        path: of the file, used in error messages.
        model_name: likewise.

    Raises:
        CheckpointError: naming the first tensor that differs.
    """
    for name in sorted(model_state.keys() | state.keys()):
        if name not in state:
            raise CheckpointError(f'{path} has no "{name}", so it is not a {model_name}')
        if name not in model_state:
            raise CheckpointError(f'{path} has a "{name}", so it is not a {model_name}')
        if state[name].shape != model_state[name].shape:
            raise CheckpointError(
                f'{path}: "{name}" is {tuple(state[name].shape)} in the file and '
                f"{tuple(model_state[name].shape)} in a {model_name}"
            )


def storage_key(value: Tensor) -> tuple[object, ...]:
    """Return a key that is equal for two names of one tensor; unique for empty tensors."""
    if is_distributed(value):
        value = value.to_local()
    if not value.numel():
        return (id(value),)
    return (value.device, value.data_ptr(), value.shape, value.stride())


def matches(name: str, pattern: str) -> bool:
    """Whether a tensor's name begins with a prefix, or matches a pattern of `fnmatch`."""
    return name.startswith(pattern) or fnmatchcase(name, pattern)


def _excluded(state: Mapping[str, Tensor], patterns: Sequence[str], origin: str) -> list[str]:
    """Return the names that a prefix or pattern matches.

    Raises:
        CheckpointError: if one matches nothing.
    """
    excluded = []
    for pattern in patterns:
        names = [name for name in state if matches(name, pattern)]
        if not names:
            modules = ", ".join(sorted({name.partition(".")[0] for name in state}))
            raise CheckpointError(
                f'{origin}: "{pattern}" excludes nothing; the modules in the file are {modules}'
            )
        excluded += names
    return list(dict.fromkeys(excluded))


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value.float()).all())


def _by_module(
    model_state: Mapping[str, Tensor], loadable: Mapping[str, Tensor]
) -> tuple[tuple[str, int, int], ...]:
    """Return (module, tensors loaded, tensors in the model) of each first name component."""
    counts = Counter(name.partition(".")[0] for name in model_state)
    loaded = Counter(name.partition(".")[0] for name in loadable)
    return tuple((module, loaded[module], count) for module, count in counts.items())


def is_distributed(value: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a `DTensor`, of which this process has a share."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def _on_shares(state: dict[str, Tensor], model_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reduce tensors to this process's shares where those of the model are sharded."""
    if not any(is_distributed(value) for value in model_state.values()):
        return state
    from hipie.checkpoint.sharded import distribute_like

    shares: dict[str, Tensor] = distribute_like(state, model_state)
    return shares


def _missing(
    model: nn.Module, model_state: dict[str, Tensor], loadable: Iterable[str]
) -> list[str]:
    """Return the names of tensors that the file, tied parameters and packages do not provide."""
    external = external_weight_prefixes(model)
    names_of = defaultdict(set)
    for name, value in model_state.items():
        names_of[storage_key(value)].add(name)
    loaded = set(loadable)
    return [
        name
        for name, value in model_state.items()
        if not loaded & {name, *names_of[storage_key(value)]} and not name.startswith(external)
    ]


def _other_model_message(
    origin: str,
    model: nn.Module,
    state: dict[str, Tensor],
    model_state: dict[str, Tensor],
    rejected: set[str],
) -> str:
    kind = type(model).__name__
    name = next((name for name in state if name in rejected), "")
    if not name:
        return f"{origin}: none of its tensors is for this {kind}"
    file_backbone, model_backbone = backbone_kind(state), backbone_kind(model_state)
    if file_backbone and model_backbone and file_backbone != model_backbone:
        return (
            f"{origin}: these are weights of a model with {file_backbone} as backbone, and this "
            f"{kind} has {model_backbone}; the configuration must name the same"
        )
    reason = "the model has no such tensor"
    if name in model_state:
        reason = (
            f"it is {_shape(state[name])} in the file and {_shape(model_state[name])} in the model"
        )
    return (
        f"{origin}: these are weights of another model than this {kind}: "
        f'{len(rejected)} of {len(state)} tensors do not fit, the first is "{name}" ({reason})'
    )


def backbone_kind(names: Iterable[str]) -> str:
    """Describe the backbone by the names of its tensors; "" for an unknown one."""
    for name in names:
        for prefix, kind in BACKBONES.items():
            if name.startswith(prefix):
                return kind
    return ""


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _listed(names: Sequence[str], description: str) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > MAX_LISTED else ""
    return f"{len(names)} {description} ({', '.join(names[:MAX_LISTED])}{more})"
