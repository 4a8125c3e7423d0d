"""Files of weights, read without running anything that is in them."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hipie.checkpoint.plain_pickle import read_plain_pickle


class CheckpointError(ValueError):
    """A file of weights that cannot be read or does not fit; the message names it."""


def read_state(path: str | Path) -> dict[str, Any]:
    """The content of a `.safetensors`, `.pth` or Detectron2 model-zoo `.pkl` file.

    Returns:
        A dict with `model` (names to tensors) and whatever else the file holds. Where the file is
        a bare state dict, it becomes `model`.

    Raises:
        CheckpointError: if the file is missing, truncated, of another format, or holds objects
            other than tensors, arrays and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file of weights")
    try:
        content = _read(path)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: refused, since {_first_line(error)}") from error
    except (RuntimeError, SafetensorError, EOFError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{path}: the file is truncated or holds no weights ({_first_line(error)})"
        ) from error
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path}: the file holds no weights")
    return content if isinstance(content.get("model"), dict) else {"model": content}


def write_atomically(path: str | Path, write: Callable[[str], None]) -> None:
    """Write a file beside its place, flush it to the disk, and move it there.

    Whatever happens on the way, the previous file stays whole.

    Args:
        path: where it goes.
        write: called with the name of a temporary file.

    Raises:
        CheckpointError: if it cannot be written, for instance on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: not written ({_first_line(error)}); the previous file is kept"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pkl":
        content = read_plain_pickle(path)
        arrays = content.get("model", content) if isinstance(content, dict) else content
        return {"model": {k: torch.as_tensor(v) for k, v in arrays.items()}, **_rest(content)}
    return torch.load(path, map_location="cpu", weights_only=True)


def _rest(content: dict[str, Any]) -> dict[str, Any]:
    kept = ("__author__", "matching_heuristics")
    return {key: content[key] for key in kept if key in content}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
