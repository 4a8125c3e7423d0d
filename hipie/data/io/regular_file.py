"""Reading of annotation files as a whole: regular files only, of a limited size.

A named pipe would wait for a writer, and a device such as /dev/zero has no end.
"""

from __future__ import annotations

import os
from pathlib import Path

from hipie.data.io.reading_rules import reading_rules
from hipie.data.io.validation import DatasetError
from hipie.errors import MissingFileError


def read_file(path: str | os.PathLike[str], kind: str = "annotation file") -> bytes:
    """Read an annotation file.

    Args:
        path: a regular file, or a link to one.
        kind: what it is, for messages.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if it is something else than a regular file, or larger than
            `ReadingRules.max_bytes`.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise DatasetError(f"{path}: this is a folder; name the {kind} in it")
    if not os.path.exists(path):
        raise MissingFileError(f"{path}: there is no such {kind}")
    if not os.path.isfile(path):
        raise DatasetError(f"{path}: this is not a regular file")
    limit = reading_rules().max_bytes
    size = path.stat().st_size
    if size > limit:
        raise DatasetError(
            f"{path}: the file has {size:,} bytes, and at most {limit:,} are read; raise "
            "DATASETS.MAX_ANNOTATION_BYTES (--max-annotation-bytes of prepare_*.py) if you trust it"
        )
    with open(path, "rb") as file:
        # A file that grows meanwhile is cut, and then reported as damaged.
        return file.read(size)
