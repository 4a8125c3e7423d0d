"""Reading pickles of data sets: RefCOCO's `refs(*).p`, and D3's tables with NumPy arrays.

Lists, dicts, strings and numbers are all that a file may build (and arrays of numbers, where they
are asked for): a pickle that names any other function or class is refused unread, so a file from
anywhere cannot run code. Pickles written by Python 2 are read too.
"""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

from hipie.checkpoint.safe_numpy import STAND_INS, Array
from hipie.data.io.json_file import DatasetError
from hipie.data.io.pickle_scan import CodeInPickle, walk

# What a damaged pickle breaks with.
_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class UnsafePickleError(DatasetError):
    """A pickle that asks for more than plain data; the message names the file and the request."""


class DamagedPickleError(DatasetError):
    """A file that is cut short or no pickle; the message names it."""


def _encode(text: str, encoding: str) -> bytes:
    """How pickles of protocol 2 and below write the bytes of an array."""
    if encoding not in ("latin1", "latin-1"):
        raise CodeInPickle(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    known: ClassVar[dict[str, Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked not in self.known:
            raise CodeInPickle(f"it asks for {asked}")
        return self.known[asked]

    def persistent_load(self, pid: Any) -> Any:
        raise CodeInPickle("it asks for an object from outside the file")


class _ArrayUnpickler(_PlainUnpickler):
    known: ClassVar[dict[str, Any]] = {"_codecs.encode": _encode, **STAND_INS}


def read_plain_pickle(path: str | os.PathLike[str], arrays: bool = False) -> Any:
    """The plain data in a pickle.

    Args:
        path: the file.
        arrays: allow NumPy arrays of numbers; `as_plain` turns what stands for one into a list.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafePickleError: if the pickle names code.
        DamagedPickleError: if the file is damaged or no pickle.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    data = path.read_bytes()
    unpickler = _ArrayUnpickler if arrays else _PlainUnpickler
    try:
        walk(data, code=arrays)
        return unpickler(io.BytesIO(data), encoding="utf-8").load()
    except CodeInPickle as error:
        raise UnsafePickleError(f"{path}: this pickle is not plain data: {error}") from error
    except _BROKEN as error:
        raise DamagedPickleError(f"{path}: this is not a whole pickle ({error})") from error


def as_plain(value: Any) -> Any:
    """A list in place of an array, the value itself otherwise."""
    return value.value.tolist() if isinstance(value, Array) else value
