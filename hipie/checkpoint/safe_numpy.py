"""NumPy arrays and numbers out of pickles, without NumPy's own unpickling.

NumPy restores data types and arrays from whatever flags and bytes a pickle holds, and damaged ones
crash it. The stand-ins here take the few fields that a plain array has, check them, and build the
array from its bytes.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PLAIN = re.compile(r"[<>=|]?[biufc]\d{1,2}")


class DType:
    """Stands for `numpy.dtype`: numbers and booleans only."""

    def __init__(self, code: str = "", *_flags: object) -> None:
        if not isinstance(code, str) or not _PLAIN.fullmatch(code):
            raise TypeError(f"arrays of {code!r} are not plain")
        self.code = code.lstrip("<>=|")
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise TypeError("an array of records is not plain")
        self.order = order

    def plain(self) -> np.dtype[Any]:
        """The data type itself."""
        return np.dtype(self.code).newbyteorder(self.order)


class Array:
    """Stands for `numpy.ndarray`."""

    def __init__(self) -> None:
        self.value = np.zeros(0, "f4")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, by_columns, data = state
        self.value = _array(data, dtype, shape, "F" if by_columns else "C")


def reconstruct(*_: object) -> Array:
    """Stands for `_reconstruct`: an array whose state follows."""
    return Array()


def from_buffer(data: Any, dtype: DType, shape: Any, order: str) -> Array:
    """Stands for `_frombuffer`, which newer pickles use."""
    array = Array()
    array.value = _array(data, dtype, shape, order)
    return array


def scalar(dtype: DType, data: Any) -> Any:
    """Stands for `scalar`: one number."""
    return _array(data, dtype, (), "C").item()


def _array(data: Any, dtype: DType, shape: Any, order: str) -> NDArray[Any]:
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    flat = np.frombuffer(raw, dtype.plain())
    native = flat.astype(flat.dtype.newbyteorder("="))
    return native.reshape(sizes, order=order)


# By the names under which NumPy 1 and 2 pickle them.
STAND_INS = {
    "numpy.dtype": DType,
    "numpy.ndarray": Array,
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
        f"numpy.dtypes.{name}DType": DType
        for name in ("Float16", "Float32", "Float64", "Int32", "Int64", "UInt8", "Bool")
    },
}


def resolved(content: Any) -> Any:
    """Plain containers with the arrays themselves in place of what stands for them."""
    if isinstance(content, Array):
        return content.value
    if isinstance(content, DType):
        return content.plain()
    if isinstance(content, dict):
        kind = OrderedDict if isinstance(content, OrderedDict) else dict
        return kind((key, resolved(value)) for key, value in content.items())
    if type(content) in (list, tuple):
        return type(content)(resolved(value) for value in content)
    return content
