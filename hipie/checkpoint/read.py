"""Reading of files of weights without running any code in them."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Iterable
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

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.safe_pickle import InertObject
from hipie.checkpoint.torch_file import (
    is_legacy_start,
    module_tensors,
    read_torch_legacy,
    read_torch_zip,
)
from hipie.downloads import DownloadError
from hipie.downloads.path_handlers import server_address
from hipie.errors import cause_of, printable
from hipie.pickle_scan import UnsafePickleError

# Names under which programs store the weights in a checkpoint, in order of preference; without one
# of them, all of the file is weights, or its only dict of tensors.
WEIGHT_KEYS = (
    "model",
    "state_dict",
    "model_state",
    "model_state_dict",
    "module",
    "net",
    "network",
    "params",
    "weights",
)
# Names of averaged weights, which are taken on request, or if there are no others.
_EMA_KEY = re.compile(r"(.*_)?(ema|averaged)(_.*)?", re.IGNORECASE)
# Name components that wrappers insert anywhere, and those that they put before every name.
_INSERTED = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
)
_PREFIXES = ("module", "model", "net", "network")
MAX_LISTED_KEYS = 10
# End of the names of transformers' indices of models in several files.
INDEX_SUFFIX = ".index.json"

# First byte of zip files.
ZIP_START = b"P"

# Files that configurations name: start of the name, publisher, address of the folder.
_DOWNLOADS = (("sam_vit_", "SAM's authors", "https://dl.fbaipublicfiles.com/segment_anything/"),)

_REFUSED = "refused, and nothing of it was run"
_TRUNCATED = "the file is truncated or is no file of weights"
# What a download leaves behind when it fails, by how the file begins (lower case).
_NO_WEIGHTS = {
    b"<!doctype": "the file is a web page instead of weights: download it again",
    b"<html": "the file is a web page instead of weights: download it again",
    b"<?xml": "the file is an error message of a server instead of weights: download it again",
    b"version https://git-lfs": (
        "the file is a pointer of Git LFS instead of weights: fetch it with git lfs pull"
    ),
}
_DAMAGED = (
    RuntimeError,
    SafetensorError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    struct.error,
    zipfile.BadZipFile,
    NotImplementedError,
    RecursionError,
    MemoryError,
)


def local_file(path: str | Path) -> Path:
    """Return the path of a file or of a sharded checkpoint; an address is downloaded first.

    Args:
        path: a file, `detectron2://...` or `https://...`.

    Raises:
        CheckpointError: if there is no such file, or it cannot be downloaded.
    """
    try:
        server_address(str(path))  # knows the names of Detectron2's catalog
        file = Path(PathManager.get_local_path(str(path)))
    except DownloadError as error:
        raise CheckpointError(str(error)) from error
    except (OSError, RuntimeError, ValueError) as error:
        reason = f"it could not be downloaded ({cause_of(error)}){_download_hint(path)}"
        raise CheckpointError(f"{path}: {reason}") from error
    if is_sharded_folder(file):
        return file
    if os.path.isdir(file):
        raise CheckpointError(f"{path}: this is a folder; name the file of weights in it")
    if os.path.exists(file) and not os.path.isfile(file):
        raise CheckpointError(f"{path}: this is not a regular file")
    if not os.path.isfile(file):
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
    if os.path.isfile(path):
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
    """Read a `.safetensors`, `.pth` or Detectron2 model-zoo `.pkl` file, told by its content.

    A sharded checkpoint is a folder, `.dcp`; of a model of transformers in several files it is the
    index, `pytorch_model.bin.index.json`. Files of TorchScript and pickled modules are read as
    the tensors in them.

    Args:
        path: see `local_file`; with `?ema=True` at its end the averaged weights (`ema`,
            `model_ema`, `ema_state_dict`, ...) are read, on top of the others.

    Returns:
        A dict with `model` (tensors by name) and the other content of the file, such as `optimizer`
        or `iteration`.

    Raises:
        CheckpointError: if the file is missing, truncated, has no weights (or no averaged ones), or
            names code.
    """
    location, options = split_options(path)
    file = local_file(location)
    try:
        content = _read_folder(file) if os.path.isdir(file) else _read(file)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        unsafe = isinstance(error, UnsafePickleError)
        reason = f"{_REFUSED}: {error}" if unsafe else _no_weights(file)
        raise CheckpointError(f"{path}: {reason}") from error
    except PermissionError as error:
        raise CheckpointError(f"{path}: this user may not read the file") from error
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: {_no_weights(file)}") from error
    content = module_tensors(content)
    if not isinstance(content, dict):
        kind = content.name if isinstance(content, InertObject) else type(content).__name__
        raise CheckpointError(f"{path}: the file contains a {printable(kind)} instead of weights")
    if file.suffix == ".pkl" and "__author__" not in content and _is_caffe2(content):
        content = {"model": _caffe2(content), "__author__": "Caffe2", "matching_heuristics": True}
    key, weights = _find_weights(content, ema=False)
    other_content = content if key is not None else {}
    tensors = _tensors(weights, content, path)
    if options.ema:
        _, averaged = _find_weights(content, ema=True)
        if averaged is None:
            keys = _listed_keys(content)
            raise CheckpointError(f"{location}: the file has no averaged weights; {keys}")
        tensors = {**unwrap_names(tensors), **unwrap_names(_tensors(averaged, content, path))}
    other_content = {name: value for name, value in other_content.items() if name != key}
    return {**other_content, "model": tensors}


def unwrap_names(state: dict[str, Tensor], model_names: Iterable[str] = ()) -> dict[str, Tensor]:
    """Remove from tensor names what wrappers of modules add.

    `torch.compile`, FSDP and activation checkpointing insert a component anywhere;
    `DistributedDataParallel`, Lightning and `AveragedModel` put one before every name, repeatedly
    and in any order, possibly with tensors of their own beside.

    Args:
        state: tensors by name.
        model_names: of the model's state dict; a first component that it has itself is kept.

    Returns:
        The tensors; one whose shorter name is taken keeps the longer one.
    """
    own_prefixes = {name.partition(".")[0] for name in model_names}
    components = {
        name: [part for part in name.split(".") if part not in _INSERTED] for name in state
    }
    while True:
        firsts = Counter(parts[0] for parts in components.values() if len(parts) > 1)
        prefix, count = firsts.most_common(1)[0] if firsts else ("", 0)
        if prefix not in _PREFIXES or prefix in own_prefixes or 2 * count <= len(state):
            break
        for parts in components.values():
            if len(parts) > 1 and parts[0] == prefix:
                del parts[0]
    names = {name: ".".join(parts) for name, parts in components.items()}
    taken = Counter(names.values())
    return {
        names[name] if taken[names[name]] == 1 and names[name] else name: value
        for name, value in state.items()
    }


def is_sharded_folder(path: Path) -> bool:
    """Whether a path is a folder in the format of torch.distributed.checkpoint."""
    return os.path.isdir(path) and (path / ".metadata").is_file()


def _read_folder(folder: Path) -> dict[str, Any]:
    from hipie.checkpoint.sharded import read_sharded

    return read_sharded(folder)


def _read_shards(index: Path) -> dict[str, Any]:
    """Read the files that an index of transformers names, which lie beside it.

    Raises:
        CheckpointError: if the index has no table of names, or naming a file that is missing.
    """
    content = json.loads(index.read_bytes())
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not all(isinstance(e, str) for e in table.values()):
        raise CheckpointError(f'{index}: the index has no "weight_map"')
    tensors: dict[str, Any] = {}
    for name in sorted(set(table.values())):
        file = index.parent / name
        if name != os.path.basename(name) or file == index or not file.is_file():
            raise CheckpointError(f'{index}: there is no "{printable(name)}" beside the index')
        tensors |= read_state(file)["model"]
    missing = next((name for name in table if name not in tensors), None)
    if missing is not None:
        raise CheckpointError(f'{index}: its files have no "{printable(missing)}"')
    return tensors


def _read(file: Path) -> Any:
    if file.name.endswith(INDEX_SUFFIX):
        return _read_shards(file)
    with open(file, "rb") as stream:
        start = stream.read(9)
    if file.suffix == ".safetensors" or start[8:] == b"{":
        return load_file(file)
    if start[:1] == ZIP_START:
        return read_torch_zip(file)
    if file.suffix == ".pkl" or is_legacy_start(start):
        return read_torch_legacy(file)
    raise ValueError("neither a zip file nor a pickle")


def _no_weights(file: Path) -> str:
    """Describe a file that could not be read, by what it begins with."""
    with open(file, "rb") as stream:
        start = stream.read(512).lstrip().lower()
    for beginning, description in _NO_WEIGHTS.items():
        if start.startswith(beginning):
            return description
    return _TRUNCATED


def _find_weights(content: dict[Any, Any], ema: bool) -> tuple[Any, Any]:
    """Return the key of the weights and the weights; the key is None if all of the file is weights.

    With `ema` the weights are the averaged ones, or None. Weights may be some dicts below a key, as
    in `model.state_dict`.
    """
    averaged = [key for key in content if isinstance(key, str) and _EMA_KEY.fullmatch(key)]
    plain = [key for key in WEIGHT_KEYS if key in content]
    order = averaged if ema else [*plain, *averaged]
    for key in order:
        weights = _weights_in(content[key])
        if weights is not None:
            return key, weights
    if ema:
        return None, None
    if _has_tensors(content):
        return None, content
    candidates = {key: _weights_in(value) for key, value in content.items() if isinstance(key, str)}
    usable = [
        key for key, weights in candidates.items() if weights is not None and key not in averaged
    ]
    if len(usable) == 1 and _has_tensors(candidates[usable[0]]):
        return usable[0], candidates[usable[0]]
    return None, content


def _weights_in(value: Any) -> dict[Any, Any] | None:
    """Return the state dict that a value is, or contains below one of the known names."""
    value = module_tensors(value)
    if not isinstance(value, dict):
        return None
    if _has_tensors(value):
        return value
    for key in WEIGHT_KEYS:
        weights = _weights_in(value.get(key))
        if weights is not None:
            return weights
    return None


def _has_tensors(state: dict[Any, Any] | None) -> bool:
    return any(
        isinstance(name, str) and isinstance(value, Tensor | np.ndarray)
        for name, value in (state or {}).items()
    )


def _is_caffe2(content: dict[Any, Any]) -> bool:
    """Whether a file is one of Detectron2's oldest: arrays by name, maybe below `blobs`."""
    blobs = content.get("blobs", content)
    return isinstance(blobs, dict) and any(isinstance(v, np.ndarray) for v in blobs.values())


def _caffe2(content: dict[str, Any]) -> dict[str, Any]:
    """Return the weights of Detectron2's oldest files, which name no author."""
    blobs = content.get("blobs", content)
    return {name: value for name, value in blobs.items() if not str(name).endswith("_momentum")}


def _tensors(state: dict[Any, Any], content: dict[Any, Any], path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict; arrays become tensors, other values are left out."""
    tensors = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype != object:
            try:
                value = torch.from_numpy(np.array(value))
            except TypeError as error:
                reason = f'"{printable(str(name))}" is of the type {value.dtype}'
                raise CheckpointError(f"{path}: {reason}, which PyTorch does not have") from error
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = value
    if not tensors:
        raise CheckpointError(f"{path}: the file contains no weights; {_listed_keys(content)}")
    return tensors


def _listed_keys(content: dict[Any, Any]) -> str:
    """Name the keys of a file, as the end of a message."""
    keys = [printable(repr(key) if isinstance(key, str) else type(key).__name__) for key in content]
    if not keys:
        return "it is empty"
    more = f" and {len(keys) - MAX_LISTED_KEYS} more" if len(keys) > MAX_LISTED_KEYS else ""
    return f"its keys are {', '.join(keys[:MAX_LISTED_KEYS])}{more}"


def _download_hint(path: str | Path) -> str:
    """Where a published file can be downloaded, as the end of a message; "" if unknown."""
    name = Path(str(path)).name
    for start, publisher, folder in _DOWNLOADS:
        if name.startswith(start):
            return f"; {publisher} offer it at {folder}{name}: download it, and name your copy"
    return ""
