"""Reading RefCOCO's `refs(*).p`: a pickle of plain lists, dicts, strings and numbers.

Those are all it may build: a pickle that names any function or class is refused unread, so a file
from anywhere cannot run code. Pickles written by Python 2 are read too.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class UnsafePickleError(ValueError):
    """A pickle that asks for more than plain data; the message names the file and the request."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise UnsafePickleError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("it asks for an object from outside the file")


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """The plain data in a pickle.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafePickleError: if the pickle names code.
        ValueError: if the file is damaged or no pickle.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8").load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: this pickle is not plain data: {error}") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path}: this is not a whole pickle ({error})") from error
