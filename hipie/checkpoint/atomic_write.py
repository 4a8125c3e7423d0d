"""Atomic writing of checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from hipie.atomic_file import replaced_file
from hipie.checkpoint.error import CheckpointError
from hipie.errors import cause_of


def write_atomically(path: str | Path, write: Callable[[str], None]) -> None:
    """Write a temporary file beside the target, flush it to the disk, and rename it.

    A crash, a full disk or `kill -9` at any moment leaves the previous file unchanged; temporary
    files of interrupted calls are removed by the next call. See `replaced_file`.

    Args:
        path: of the file; its folder is created if needed.
        write: called with the name of a temporary file, which it fills.

    Raises:
        CheckpointError: if the file cannot be written, for instance on a full disk.
    """
    path = Path(path)
    try:
        with replaced_file(path, durable=True) as temporary:
            write(str(temporary))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: it could not be written ({cause_of(error)}); "
            + ("the previous file is unchanged" if path.exists() else "no file is left behind")
        ) from error
