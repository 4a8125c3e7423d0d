"""Atomic writing of JSON, PNG and JPEG files, and a lock between processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

from hipie.atomic_file import open_replaced
from hipie.errors import InputError, cause_of


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically: to a temporary file that is then renamed."""
    with open_replaced(path) as stream:
        stream.write(data)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_bytes(path, json.dumps(content, separators=(",", ":")).encode())


def read_json(path: Path) -> Any:
    """Read JSON; raise ValueError naming the file if it is truncated or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not a complete JSON file: {cause_of(error)}") from error


def write_png(path: Path, labels: NDArray[Any]) -> None:
    """Write a uint8 label map [H, W] or RGB image [H, W, 3] as PNG, atomically."""
    pixels = labels[..., ::-1] if labels.ndim == 3 else labels
    write_bytes(path, cv2.imencode(".png", pixels)[1].tobytes())


def write_jpeg(path: Path, image: NDArray[Any], quality: int = 95) -> None:
    """Write a uint8 RGB image [H, W, 3] as JPEG, atomically."""
    coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    write_bytes(path, coded.tobytes())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive file lock between processes on one machine."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)
