"""Atomic writing of files: the previous file stays until the new one is complete."""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

# Characters of a file's name in that of its temporary file: names have at most 255 bytes.
_NAME_LENGTH = 40


@contextmanager
def replaced_file(path: str | Path, *, durable: bool = False) -> Iterator[Path]:
    """Context in which a temporary file is filled, which then replaces a file.

    The temporary file is beside the target; it is new and its name cannot be predicted, so that no
    link can be planted. A link at the target is replaced, and what it points to stays. After an
    exception the previous file is unchanged and the temporary one is removed.

    Args:
        path: of the file; its folder is created if needed.
        durable: flush the file and its folder to the disk, so that the previous or the new file is
            there after a power cut, too; and remove temporary files of this target that killed
            processes have left.

    Yields:
        The path of the temporary file, which is empty, with the permissions of new files.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name[:_NAME_LENGTH]}."
    if durable:
        _remove_leftovers(path.parent, prefix)
    temporary = path.with_name(f"{prefix}{os.getpid()}.{secrets.token_hex(8)}.partial")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        if durable:
            _flush(temporary, os.O_RDWR)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent, os.O_RDONLY)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def open_replaced(path: str | Path) -> Iterator[BinaryIO]:
    """Open the temporary file of `replaced_file` for writing bytes."""
    with replaced_file(path) as temporary, temporary.open("wb") as stream:
        yield stream


def _flush(path: Path, mode: int) -> None:
    """Flush a file's bytes, or a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, mode)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove temporary files with this prefix that ended processes have left."""
    for leftover in folder.glob(f"{glob.escape(prefix)}*.partial"):
        number = leftover.name.removeprefix(prefix).partition(".")[0]
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
