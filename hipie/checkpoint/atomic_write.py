"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from hipie.checkpoint.error import CheckpointError
from hipie.errors import cause_of


def write_atomically(path: str | Path, write: Callable[[str], None]) -> None:
    """Write a temporary file beside the target, flush it to the disk, and rename it.

    A crash, a full disk or `kill -9` at any moment leaves the previous file unchanged; temporary
    files of interrupted calls are removed by the next call. The temporary file is new and its name
    cannot be predicted, so that a link cannot be planted; a link at the target is replaced.

    Args:
        path: of the file; its folder is created if needed.
        write: called with the name of a temporary file, which it fills.

    Raises:
        CheckpointError: if the file cannot be written, for instance on a full disk.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        write(str(temporary))
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        _flush(path.parent, os.O_RDONLY)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: it could not be written ({cause_of(error)}); "
            + ("the previous file is unchanged" if path.exists() else "no file is left behind")
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _flush(path: Path, mode: int) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of this target that ended processes have left."""
    for leftover in path.parent.glob(f".{path.name}.*.partial"):
        number = leftover.name.removeprefix(f".{path.name}.").partition(".")[0]
        if number.isdigit() and not _is_running(int(number)):
            leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
