"""Reader of pickled annotations that cannot run code: RefCOCO's `refs(*).p`, D3's tables.

Only lists, dicts, strings and numbers may be built, on request NumPy arrays of numbers as well.
A pickle that names any other class or function is refused before anything of it is built. Pickles
of Python 2 are supported. The opcodes are scanned first, see `hipie.pickle_scan`.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np

from hipie.checkpoint.safe_pickle import (
    NUMPY_STAND_INS,
    ArrayStandIn,
    DTypeStandIn,
    Global,
    SafeUnpickler,
    load_safely,
)
from hipie.data.io.regular_file import read_file
from hipie.data.io.validation import DatasetError
from hipie.errors import cause_of, printable
from hipie.pickle_scan import UnsafePickleError as UnsafeOpcodesError
from hipie.pickle_scan import require_few_values, scan_pickle

ARRAY_NAMES = frozenset([*NUMPY_STAND_INS, "_codecs.encode"])
"""Names that pickles of arrays of numbers have."""

# Exceptions of the unpickler on damaged files.
_UNPICKLING_ERRORS = (
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
    """A pickle that needs more than plain data; the message names the file and the class."""


class DamagedPickleError(DatasetError):
    """A file that is truncated or not a pickle; the message names it."""


def read_plain_pickle(path: str | os.PathLike[str], arrays: bool = False) -> Any:
    """Read a pickle of plain data.

    Args:
        path: a regular file of at most `ReadingRules.max_bytes`.
        arrays: allow NumPy arrays of numbers; `array_to_list` converts them.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafePickleError: if the pickle needs code, or is built to exhaust the machine.
        DamagedPickleError: if the file is damaged or not a pickle.
        DatasetError: if it is no regular file, or too large.
    """
    path = Path(path)
    data = read_file(path)
    try:
        return _load(data, arrays)
    except UnsafeOpcodesError as error:
        raise UnsafePickleError(f"{path}: this pickle is not plain data: {error}") from error
    except _UNPICKLING_ERRORS as error:
        raise DamagedPickleError(
            f"{path}: this pickle is damaged or incomplete ({cause_of(error)})"
        ) from error


def array_to_list(value: Any) -> Any:
    """Return the list that an array holds; any other value as it is."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _load(data: bytes, arrays: bool) -> Any:
    scan = scan_pickle(data, code=arrays)
    if scan.names or scan.tuples > 1:
        # The slower unpickler checks names, calls and states, and tuples before they are hashed.
        content = load_safely(_ArrayUnpickler(io.BytesIO(data), encoding="utf-8"))
    else:
        content = _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    if isinstance(content, dict | list | tuple | set | frozenset):
        require_few_values(content)
    return content


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler for a pickle whose scan found no name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise UnsafeOpcodesError(f"it needs {printable(f'{module}.{name}')}")


class _ArrayUnpickler(SafeUnpickler):
    """Unpickler that knows the names of arrays of numbers only."""

    def find_class(self, module: str, name: str) -> Global:
        full_name = f"{module}.{name}"
        if full_name not in ARRAY_NAMES:
            raise UnsafeOpcodesError(f"it needs {printable(full_name)}")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise UnsafeOpcodesError("it needs an object from outside the file")

    def _load_build(self) -> None:
        if not isinstance(self.stack[-2], ArrayStandIn | DTypeStandIn):
            raise UnsafeOpcodesError("it needs an object's state")
        super()._load_build()

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **SafeUnpickler.dispatch,
        pickle.BUILD[0]: _load_build,
    }
