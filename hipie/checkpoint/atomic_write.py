"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from hipie.checkpoint.error import CheckpointError, first_line


def write_atomically(path: str | Path, write: Callable[[str], None]) -> None:
    """Write a file beside its place, flush it to the disk, and move it there.

    A crash, a full disk or `kill -9` at any moment leaves the previous file as it was; what is
    left of an interrupted try is removed by the next one.

    Args:
        path: where the file goes; its folder is made if needed.
        write: called with the name of a temporary file, which it fills.

    Raises:
        CheckpointError: if the file cannot be written, for instance on a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        write(str(temporary))
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _flush(path.parent, os.O_RDONLY)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: it could not be written ({first_line(error)}); "
            + ("the previous file is as it was" if path.exists() else "nothing is left behind")
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path, mode: int) -> None:
    """Have the disk keep a file's bytes, or a folder's names."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what processes that are gone have left of this file."""
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        number = leftover.name.removesuffix(".partial").rpartition(".")[2]
        if number.isdigit() and not _runs(int(number)):
            leftover.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
