"""Folders of models that others distribute: their configurations and their files of weights.

They are read by this package itself: the libraries that write them run the Python of a folder or
load further networks where a configuration asks for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hipie.errors import InputError, MissingFileError, cause_of

# The configurations of published models have some kilobytes.
MAX_CONFIG_BYTES = 1_000_000
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# Bounds on the numbers of a network: the largest encoders have 64 layers and 256,000 tokens.
MAX_LAYERS, MAX_SIZE = 512, 1_000_000
_LAYER_KEYS = ("layers", "depth", "num_hidden_layers")


def read_model_config(file: str | Path) -> dict[str, Any]:
    """Read a model's configuration, an object in JSON.

    Raises:
        InputError: if it is missing, no regular file, larger than `MAX_CONFIG_BYTES`, or not an
            object in JSON.
    """
    path = Path(file)
    data = read_small_file(path, MAX_CONFIG_BYTES)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: it cannot be read ({cause_of(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: this is not an object in JSON")
    return content


def read_small_file(path: str | Path, max_bytes: int) -> bytes:
    """Read a file of a model's folder that is small in every folder of a model.

    Raises:
        InputError: if it is missing, no regular file, or has more bytes.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise MissingFileError(f"{path}: there is no such file")
    if not os.path.isfile(path):
        raise InputError(f"{path}: this is no regular file")
    try:
        with open(path, "rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({cause_of(error)})") from error
    if len(data) > max_bytes:
        raise InputError(f"{path}: such a file has at most {max_bytes:,} bytes")
    return data


def require_sizes(config: Mapping[str, Any], name: str) -> None:
    """Check that the numbers of a configuration may be sizes of a network.

    Args:
        config: at any depth.
        name: of the file, for the message.

    Raises:
        InputError: naming a key and its number.
    """
    for key, value in _numbers(config):
        limit = MAX_LAYERS if key in _LAYER_KEYS else MAX_SIZE
        if not abs(value) <= limit:
            raise InputError(f"{name}: {key[:60]!a} is {value:.6g}, and at most {limit:,} is read")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a configuration with their keys."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield from _numbers(below, name)
    elif isinstance(value, list):
        for below in value:
            yield from _numbers(below, key)
    elif isinstance(value, int | float):
        yield key, min(max(value, -1e308), 1e308) if isinstance(value, int) else value


def find_weights(folder: str | Path, preferred: Collection[str] = ()) -> Path:
    """Return the file of weights in a folder: `preferred` names first, then by `WEIGHT_SUFFIXES`.

    Raises:
        InputError: if there is none.
    """
    files = [path for path in sorted(Path(folder).iterdir()) if path.suffix in WEIGHT_SUFFIXES]
    if not files:
        raise InputError(f"{folder}: the folder has no file of weights")
    order = list(WEIGHT_SUFFIXES)
    return min(files, key=lambda path: (path.name not in preferred, order.index(path.suffix)))
