"""Reader of JSON annotation files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hipie.data.io.validation import DatasetError
from hipie.errors import MissingFileError, cause_of


def read_json(path: str | os.PathLike[str], lists: Iterable[str] = ()) -> Any:
    """Read a JSON file in UTF-8, or in UTF-16 or UTF-32; a byte order mark is skipped.

    Args:
        path: the file.
        lists: keys of the top-level object whose values must be lists.

    Returns:
        The parsed content.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file is not JSON, or lacks one of `lists`.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such annotation file")
    try:
        data = path.read_bytes()
        content = json.loads(data.decode(json.detect_encoding(data)))
    except (ValueError, RecursionError) as error:  # Not JSON, not UTF-8, or nested too deeply.
        raise DatasetError(f"{path}: this is not a JSON file ({cause_of(error)})") from error
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f'{path}: the top-level object has no list "{key}"')
    return content
