"""What is known about files of weights on this machine: the place for them, and checksums."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from hipie.errors import HipieError
from hipie.logs import get_logger

logger = get_logger(__name__)
BLOCK = 2**20
LOCK_SECONDS = 30
RECORDS = "records.json"


@dataclass(frozen=True)
class FileRecord:
    """A file of a repository at the time of its first use.

    Attributes:
        file: its path in the repository.
        revision: commit.
        sha256: "" if the hub's metadata does not have it.
        size: in bytes.
    """

    file: str
    revision: str
    sha256: str
    size: int


def models_folder() -> Path:
    """Return the folder of files that users put there by hand, and of the records.

    It is `hipie/models` in `XDG_CACHE_HOME`, by default ~/.cache.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(cache), "hipie", "models").absolute()


def recorded(name: str) -> FileRecord | None:
    """Return what was recorded of a model at its first use; None before it."""
    entry = _read().get("models", {}).get(name)
    try:
        return FileRecord(**entry) if entry else None
    except TypeError:
        return None


def record(name: str, entry: FileRecord) -> None:
    """Record the file of a model; a cache that cannot be written is logged."""
    _write("models", name, asdict(entry))


def known_sha256(file: Path) -> str:
    """Return the SHA-256 of a file that has been computed before; "" if the file has changed."""
    entry = _read().get("verified", {}).get(str(file.resolve()), {})
    status = file.stat()
    unchanged = entry.get("size") == status.st_size and entry.get("mtime") == status.st_mtime_ns
    return str(entry.get("sha256", "")) if unchanged else ""


def record_sha256(file: Path, sha256: str) -> None:
    """Record the SHA-256 of a file that has been checked."""
    status = file.stat()
    entry = {"size": status.st_size, "mtime": status.st_mtime_ns, "sha256": sha256}
    _write("verified", str(file.resolve()), entry)


def digest(file: Path, kind: str = "sha256") -> str:
    """Compute the checksum of a file."""
    result = hashlib.new(kind, usedforsecurity=False)
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            result.update(block)
    return result.hexdigest()


def _read() -> dict[str, Any]:
    try:
        content = json.loads((models_folder() / RECORDS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    valid = isinstance(content, dict) and all(isinstance(v, dict) for v in content.values())
    return content if valid else {}


def _write(table: str, key: str, entry: dict[str, Any]) -> None:
    from hipie.checkpoint.atomic_write import write_atomically

    file = models_folder() / RECORDS
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock", timeout=LOCK_SECONDS):
            content = _read()
            content.setdefault(table, {})[key] = entry
            text = json.dumps(content, indent=1, sort_keys=True)
            write_atomically(file, lambda name: _write_text(name, text))
    except (OSError, HipieError) as error:  # without it the file is checked again at its next use
        logger.debug("%s could not be written: %s", file, error)


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
