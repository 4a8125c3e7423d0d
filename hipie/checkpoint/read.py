"""Reading of files of weights without running any code in them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hipie.checkpoint.error import CheckpointError, first_line
from hipie.checkpoint.safe_pickle import (
    NUMPY_STAND_INS,
    UnsafePickleError,
    read_pickle,
    resolve_stand_ins,
)

# Keys under which programs store the weights in a checkpoint; without one, all of it is weights.
WEIGHT_KEYS = ("model", "state_dict", "model_state")
PARALLEL_PREFIX = "module."

# First byte of zip files and of pickles of protocol 2 and newer.
ZIP_START, PICKLE_START = b"P", b"\x80"

# Files that configurations name: start of the name, publisher, address of the folder.
_DOWNLOADS = (("sam_vit_", "SAM's authors", "https://dl.fbaipublicfiles.com/segment_anything/"),)

# What torch's weights-only reader may build beside tensors: arrays and numbers of NumPy.
_SAFE_GLOBALS: list[Any] = [(stand_in, name) for name, stand_in in NUMPY_STAND_INS.items()]
_REFUSED = "refused, and nothing of it was run"
_TRUNCATED = "the file is truncated or is no file of weights"
_DAMAGED = (
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
    """Return the path of a file on this machine; an address is downloaded first.

    Args:
        path: a file, `detectron2://...` or `https://...`.

    Raises:
        CheckpointError: if there is no such file, or it cannot be downloaded.
    """
    try:
        file = Path(PathManager.get_local_path(str(path)))
    except (OSError, RuntimeError, ValueError) as error:
        reason = f"it could not be downloaded ({first_line(error)}){_download_hint(path)}"
        raise CheckpointError(f"{path}: {reason}") from error
    if file.is_dir():
        raise CheckpointError(f"{path}: this is a folder; name the file of weights in it")
    if not file.is_file():
        raise CheckpointError(f"{path}: there is no such file of weights{_download_hint(path)}")
    return file


@dataclass(frozen=True)
class ReadOptions:
    """Options at the end of a path, such as `model_final.pth?ema=True`.

    Attributes:
        matching_heuristics: names are matched by their suffixes, as Detectron2 does.
        ema: the averaged weights of a training with `MODEL_EMA.ENABLED` are read.
    """

    matching_heuristics: bool = False
    ema: bool = False


def split_options(path: str | Path) -> tuple[str, ReadOptions]:
    """Split a path or address into the part before its options, and these.

    Raises:
        CheckpointError: for an unknown option, or a value other than True and False.
    """
    if Path(path).is_file():
        return str(path), ReadOptions()
    parsed = urlparse(str(path))
    values = {name: given[-1] for name, given in parse_qs(parsed.query).items()}
    names = [field.name for field in fields(ReadOptions)]
    if parsed.scheme.startswith("http") and not values.keys() <= set(names):
        return str(path), ReadOptions()  # the query is the server's
    for name, value in values.items():
        if name not in names:
            raise CheckpointError(
                f'{path}: the option "{name}" is unknown; there are {" and ".join(names)}'
            )
        if value not in ("True", "False"):
            raise CheckpointError(f'{path}: the option "{name}" is True or False, not {value}')
    options = ReadOptions(**{name: value == "True" for name, value in values.items()})
    return parsed._replace(query="").geturl(), options


def read_state(path: str | Path) -> dict[str, Any]:
    """Read a `.safetensors`, `.pth` or Detectron2 model-zoo `.pkl` file.

    Args:
        path: see `local_file`; with `?ema=True` at its end the averaged weights are read.

    Returns:
        A dict with `model` (tensors by name) and the other content of the file, such as `optimizer`
        or `iteration`.

    Raises:
        CheckpointError: if the file is missing, truncated, has no weights (or no averaged ones), or
            names objects other than tensors, arrays and plain containers.
    """
    location, options = split_options(path)
    file = local_file(location)
    try:
        content = _read(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {_refusal(error)}") from error
    except PermissionError as error:
        raise CheckpointError(f"{path}: this user may not read the file") from error
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: {_TRUNCATED}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: the file contains a {type(content).__name__} instead of weights"
        )
    if file.suffix == ".pkl" and "__author__" not in content:
        content = {"model": _caffe2(content), "__author__": "Caffe2", "matching_heuristics": True}
    key = next((key for key in WEIGHT_KEYS if isinstance(content.get(key), dict)), None)
    other_content = {name: value for name, value in content.items() if name != key} if key else {}
    state = _tensors(content[key] if key else content, path)
    if options.ema:
        if not isinstance(other_content.get("ema"), dict):
            raise CheckpointError(f"{location}: it has no averaged weights (MODEL_EMA.ENABLED)")
        state = {**strip_module_prefix(state), **_tensors(other_content["ema"], path)}
    return {"model": state, **other_content}


def strip_module_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix `module.` that `DistributedDataParallel` adds, where all names have it."""
    if not all(name.startswith(PARALLEL_PREFIX) for name in state):
        return state
    return {name.removeprefix(PARALLEL_PREFIX): value for name, value in state.items()}


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix == ".pkl" and not zipfile.is_zipfile(file):
        return read_pickle(file)
    with open(file, "rb") as stream:
        if stream.read(1) not in (ZIP_START, PICKLE_START):
            raise ValueError("neither a zip file nor a pickle")
    with torch.serialization.safe_globals(_SAFE_GLOBALS):
        return resolve_stand_ins(torch.load(file, map_location="cpu", weights_only=True))


def _caffe2(content: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of Detectron2's oldest files, which name no author."""
    blobs = content.get("blobs", content)
    return {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}


def _tensors(state: dict[Any, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict; arrays become tensors, other values are left out."""
    tensors = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            value = torch.from_numpy(np.array(value))
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = value
    if not tensors:
        raise CheckpointError(f"{path}: the file contains no weights")
    return tensors


def _download_hint(path: str | Path) -> str:
    """Where a published file can be downloaded, as the end of a message; "" if unknown."""
    name = Path(str(path)).name
    for start, publisher, folder in _DOWNLOADS:
        if name.startswith(start):
            return f"; {publisher} offer it at {folder}{name}: download it, and name your copy"
    return ""


def _refusal(error: pickle.UnpicklingError) -> str:
    """Describe why a pickle was not read: it is damaged, or it would run code."""
    if isinstance(error, UnsafePickleError):
        return f"{_REFUSED}: {error}"
    name = str(error).partition("GLOBAL ")[2].split(" ")[0]
    if name:
        return f'{_REFUSED}: it names "{name}", and only tensors are read'
    if "Unsupported" in str(error) or "REDUCE" in str(error):
        return f"{_REFUSED}: it holds more than tensors and plain containers"
    return _TRUNCATED
