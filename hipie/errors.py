"""Base classes of the errors that this package raises for unusable input.

Programs report a `HipieError` in one sentence, and every other exception as a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HipieError(Exception):
    """Unusable input; the message is one sentence naming the file, key, value or data set."""


class InputError(HipieError, ValueError):
    """Configuration, data, file or argument that cannot be used."""


class MissingFileError(HipieError, FileNotFoundError):
    """File or folder that does not exist."""


class MissingPackageError(HipieError, ModuleNotFoundError):
    """Optional Python package that is not installed."""


class UnsupportedError(HipieError, NotImplementedError):
    """Operation that a model does not have."""


def near_names(name: str, known: Iterable[str]) -> str:
    """Return a hint such as "; near ones are a, b", or "" if no known name is similar."""
    near = difflib.get_close_matches(name, sorted(known), 3, 0.6)
    return f"; near ones are {', '.join(near)}" if near else ""
