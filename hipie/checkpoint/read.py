"""Files of weights, read without running anything that is in them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hipie.checkpoint.error import CheckpointError, first_line
from hipie.checkpoint.safe_numpy import STAND_INS, resolved
from hipie.checkpoint.safe_pickle import RefusedPickle, read_plain_pickle

# Where programs keep the weights inside a checkpoint; without such a key, it is all weights.
WEIGHT_KEYS = ("model", "state_dict", "model_state")

PARALLEL_PREFIX = "module."
ZIP_START, PICKLE_START = b"P", b"\x80"

# Who offers files of weights that configurations name: how they begin, whose they are, where.
_OFFERED = (("sam_vit_", "SAM's authors", "https://dl.fbaipublicfiles.com/segment_anything/"),)

# What torch's weights-only reader may build besides tensors: arrays and numbers of NumPy.
_STAND_INS = [(stand_in, name) for name, stand_in in STAND_INS.items()]
_REFUSED = "refused, and nothing of it was run"
_TRUNCATED = "the file is truncated or is no file of weights"
_BROKEN = (
    RuntimeError,
    SafetensorError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    struct.error,
)


def local_file(path: str | Path) -> Path:
    """A file's place on this disk, fetched first where `path` is an address.

    Args:
        path: a file, `detectron2://...` or `https://...`.

    Raises:
        CheckpointError: if there is no such file, or it cannot be fetched.
    """
    try:
        found = Path(PathManager.get_local_path(str(path)))
    except (OSError, RuntimeError, ValueError) as error:
        why = f"it could not be fetched ({first_line(error)}){_origin(path)}"
        raise CheckpointError(f"{path}: {why}") from error
    if found.is_dir():
        raise CheckpointError(f"{path}: this is a folder; name the file of weights in it")
    if not found.is_file():
        raise CheckpointError(f"{path}: there is no such file of weights{_origin(path)}")
    return found


def _origin(path: str | Path) -> str:
    """Where a file that is not here can be had, as the end of an expression."""
    name = Path(str(path)).name
    for beginning, whose, folder in _OFFERED:
        if name.startswith(beginning):
            return f"; {whose} offer it at {folder}{name}: download it, and name your copy"
    return ""


def read_state(path: str | Path) -> dict[str, Any]:
    """What a `.safetensors`, `.pth` or Detectron2 model-zoo `.pkl` file holds.

    Args:
        path: see `local_file`.

    Returns:
        A dict with `model` (names to tensors) and whatever else the file holds, such as
        `optimizer` or `iteration`.

    Raises:
        CheckpointError: if the file is missing, truncated, holds no weights, or asks for objects
            other than tensors, arrays and plain containers.
    """
    file = local_file(path)
    try:
        content = _read(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_why(error)}") from error
    except PermissionError as error:
        raise CheckpointError(f"{path}: this user may not read the file") from error
    except _BROKEN as error:
        raise CheckpointError(f"{path}: {_TRUNCATED}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: the file holds a {type(content).__name__}, no weights")
    if file.suffix == ".pkl" and "__author__" not in content:
        content = {"model": _caffe2(content), "__author__": "Caffe2", "matching_heuristics": True}
    key = next((key for key in WEIGHT_KEYS if isinstance(content.get(key), dict)), None)
    rest = {name: value for name, value in content.items() if name != key} if key else {}
    state = _tensors(content[key] if key else content, path)
    return {"model": state, **rest}


def strip_module_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix `module.` that `DistributedDataParallel` adds, where all names have it."""
    if not all(name.startswith(PARALLEL_PREFIX) for name in state):
        return state
    return {name.removeprefix(PARALLEL_PREFIX): value for name, value in state.items()}


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix == ".pkl" and not zipfile.is_zipfile(file):
        return read_plain_pickle(file)
    with open(file, "rb") as stream:
        if stream.read(1) not in (ZIP_START, PICKLE_START):
            raise ValueError("neither a zip file nor a pickle")
    with torch.serialization.safe_globals(_STAND_INS):
        return resolved(torch.load(file, map_location="cpu", weights_only=True))


def _caffe2(content: dict[str, Any]) -> dict[str, Any]:
    """The weights of Detectron2's oldest files, which name no author."""
    blobs = content.get("blobs", content)
    return {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}


def _tensors(state: dict[Any, Any], path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict; arrays become tensors, other things are left out."""
    found = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            value = torch.from_numpy(np.array(value))
        if isinstance(name, str) and isinstance(value, Tensor):
            found[name] = value
    if not found:
        raise CheckpointError(f"{path}: the file holds no weights")
    return found


def _why(error: pickle.UnpicklingError) -> str:
    """Tell a file that is broken from one that would run code."""
    if isinstance(error, RefusedPickle):
        return f"{_REFUSED}: {error}"
    asked = str(error).partition("GLOBAL ")[2].split(" ")
    if asked[0]:
        return f'{_REFUSED}: it asks for "{asked[0]}", and only tensors are read'
    if "Unsupported" in str(error) or "REDUCE" in str(error):
        return f"{_REFUSED}: it holds more than tensors and plain containers"
    return _TRUNCATED
