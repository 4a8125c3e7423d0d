"""Pickle reader for plain containers and NumPy arrays that never runs code.

Detectron2's model zoo stores its backbones in `.pkl` files, and Python's unpickler runs any code
that they name. This one looks names up in a short table and imports nothing.

NumPy restores data types and arrays from any flags and bytes in a pickle, and crashes on damaged
ones. The stand-ins below accept the few fields of a plain array, check them, and build the array
from its bytes.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hipie.errors import InputError

_PLAIN_DTYPE = re.compile(r"[<>=|]?[biufc]\d{1,2}")
# Errors of an unpickler on missing or wrong bytes.
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class UnsafePickleError(InputError, pickle.UnpicklingError):
    """Pickle that names something other than plain containers and arrays; nothing of it was run."""


class DTypeStandIn:
    """Stand-in for `numpy.dtype`: numbers and booleans only."""

    def __init__(self, code: str = "", *_flags: object) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise TypeError(f"arrays of {code!r} are not plain")
        self.code = code.lstrip("<>=|")
        self.order: Literal["<", ">", "=", "|"] = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise TypeError("an array of records is not plain")
        self.order = order

    def dtype(self) -> np.dtype[Any]:
        """Return NumPy's data type."""
        return np.dtype(self.code).newbyteorder(self.order)


class ArrayStandIn:
    """Stand-in for `numpy.ndarray`; `value` is the array."""

    def __init__(self) -> None:
        self.value: np.ndarray[Any, Any] = np.zeros(0, "f4")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, column_major, data = state
        self.value = _array(data, dtype, shape, "F" if column_major else "C")


def reconstruct(*_: object) -> ArrayStandIn:
    """Stand-in for NumPy's `_reconstruct`: an array whose state follows."""
    return ArrayStandIn()


def from_buffer(data: Any, dtype: DTypeStandIn, shape: Any, order: str) -> ArrayStandIn:
    """Stand-in for NumPy's `_frombuffer`, which pickles of protocol 5 use."""
    array = ArrayStandIn()
    array.value = _array(data, dtype, shape, order)
    return array


def scalar(dtype: DTypeStandIn, data: Any) -> Any:
    """Stand-in for NumPy's `scalar`: one number."""
    return _array(data, dtype, (), "C").item()


def _array(data: Any, dtype: DTypeStandIn, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    flat = np.frombuffer(raw, dtype.dtype())
    native = flat.astype(flat.dtype.newbyteorder("="))
    return native.reshape(sizes, order=order)


# By the names under which NumPy 1 and 2 pickle them.
NUMPY_STAND_INS: dict[str, Any] = {
    "numpy.dtype": DTypeStandIn,
    "numpy.ndarray": ArrayStandIn,
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in (
            ("multiarray._reconstruct", reconstruct),
            ("multiarray.scalar", scalar),
            ("numeric._frombuffer", from_buffer),
        )
    },
    **{
        f"numpy.dtypes.{name}DType": DTypeStandIn
        for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "UInt8", "Bool")
    },
}


def resolve_stand_ins(content: Any) -> Any:
    """Replace the stand-ins in plain containers by NumPy's arrays and data types."""
    if isinstance(content, ArrayStandIn):
        return content.value
    if isinstance(content, DTypeStandIn):
        return content.dtype()
    if isinstance(content, dict):
        kind = OrderedDict if isinstance(content, OrderedDict) else dict
        return kind((key, resolve_stand_ins(value)) for key, value in content.items())
    if type(content) in (list, tuple):
        return type(content)(resolve_stand_ins(value) for value in content)
    return content


def _encode(text: str, encoding: str = "") -> bytes:
    """Stand-in for `codecs.encode` with Latin-1, by which pickles of Python 2 store bytes."""
    if encoding.lower() not in ("latin1", "latin-1"):
        raise UnsafePickleError(f'it names the encoding "{encoding}"')
    return text.encode("latin1")


def _empty_bytes() -> bytes:
    """Stand-in for `bytes`, by which old pickles store the bytes of an empty array."""
    return b""


_ALLOWED: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": _empty_bytes,
    "__builtin__.str": _empty_bytes,
    "builtins.bytes": _empty_bytes,
    "collections.OrderedDict": OrderedDict,
    **NUMPY_STAND_INS,
}


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _ALLOWED:
            raise UnsafePickleError(f'it names "{full_name}", and only plain arrays are read')
        return _ALLOWED[full_name]


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of dicts, lists, tuples, numbers, strings and NumPy arrays.

    Strings of Python 2 are decoded as Latin-1, as the arrays of its time need.

    Args:
        path: the file.

    Raises:
        UnsafePickleError: if the file names anything else; nothing of it has run.
        pickle.UnpicklingError: if it is truncated or no pickle.
    """
    with open(path, "rb") as file:
        try:
            return resolve_stand_ins(_SafeUnpickler(file, encoding="latin1").load())
        except UnsafePickleError:
            raise
        except _DAMAGED as error:
            raise pickle.UnpicklingError("it is truncated or no pickle") from error
