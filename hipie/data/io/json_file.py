"""Reader of JSON annotation files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from hipie.data.io.regular_file import read_file
from hipie.data.io.validation import DatasetError
from hipie.errors import cause_of

MAX_DEPTH = 100
"""How deep lists and objects may be nested."""


def read_json(path: str | os.PathLike[str], lists: Iterable[str] = ()) -> Any:
    """Read a JSON file in UTF-8, or in UTF-16 or UTF-32; a byte order mark is skipped.

    Args:
        path: a regular file of at most `ReadingRules.max_bytes`.
        lists: keys of the top-level object whose values must be lists.

    Returns:
        The parsed content.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: if the file cannot be read by these rules, is not JSON, is nested deeper than
            `MAX_DEPTH`, or lacks one of `lists`.
    """
    path = Path(path)
    data = read_file(path)
    try:
        content = json.loads(data.decode(json.detect_encoding(data)))
    except RecursionError as error:
        raise DatasetError(_too_deep(path)) from error
    except ValueError as error:  # Not JSON, not UTF-8.
        raise DatasetError(f"{path}: this is not a JSON file ({cause_of(error)})") from error
    del data
    if _is_deep(content):
        raise DatasetError(_too_deep(path))
    require_lists(path, content, lists)
    return content


def require_lists(path: str | os.PathLike[str], content: Any, lists: Iterable[str]) -> None:
    """Check that parsed JSON is an object with some lists.

    Raises:
        DatasetError: naming the file and the list that it lacks.
    """
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DatasetError(f'{path}: the top-level object has no list "{key}"')


def _too_deep(path: Path) -> str:
    return f"{path}: its lists and objects are nested more than {MAX_DEPTH} deep"


def _is_deep(content: Any) -> bool:
    """Whether containers are nested deeper than `MAX_DEPTH`, level by level."""
    level = [content]
    for _ in range(MAX_DEPTH):
        children = chain.from_iterable(
            one.values() if type(one) is dict else one for one in level if type(one) in (dict, list)
        )
        level = [child for child in children if type(child) is dict or type(child) is list]
        if not level:
            return False
    return True
