"""A pickle reader that knows arrays and plain containers, and refuses everything else.

Detectron2's model zoo keeps its backbones in `.pkl` files, which the ordinary reader would let run
any code.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
_RECONSTRUCTORS = {"_reconstruct", "scalar"}
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module in _MULTIARRAY and name in _RECONSTRUCTORS:
            return getattr(_multiarray(), name)
        raise pickle.UnpicklingError(f'it names "{module}.{name}", which is not plain data')


def read_plain_pickle(path: str | Path) -> Any:
    """The content of a pickle of dicts, lists, numbers, strings and NumPy arrays.

    Strings of Python 2 are read as Latin-1, which arrays of its time need.

    Raises:
        pickle.UnpicklingError: if the file names anything else, or is no pickle.
    """
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file, encoding="latin1").load()
        except (EOFError, IndexError, AttributeError, ImportError) as error:
            raise pickle.UnpicklingError(f"it is truncated or no pickle ({error})") from error


def _multiarray() -> Any:
    try:
        from numpy._core import multiarray
    except ImportError:
        from numpy.core import multiarray
    return multiarray
