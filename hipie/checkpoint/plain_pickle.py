"""A pickle reader that knows arrays and plain containers, and refuses everything else.

Detectron2's model zoo keeps its backbones in `.pkl` files, which the ordinary reader would let run
any code. This one looks up a name in a short table and never imports what a file asks for.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

try:
    from numpy._core import multiarray
except ImportError:  # numpy 1
    from numpy.core import multiarray

# What a file breaks with when bytes are missing or wrong.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class RefusedPickle(pickle.UnpicklingError):
    """The file asks for something that is neither an array nor a plain container."""


def _encode(text: str, encoding: str = "") -> bytes:
    """How old pickles write bytes; of the many encodings of `codecs`, only theirs."""
    if encoding.lower() not in ("latin1", "latin-1"):
        raise RefusedPickle(f'it asks for the encoding "{encoding}"')
    return text.encode("latin1")


_KNOWN = {
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    **{
        (f"numpy.{core}.multiarray", name): getattr(multiarray, name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        raise RefusedPickle(f'it asks for "{module}.{name}", and only plain arrays are read')


def read_plain_pickle(path: str | Path) -> Any:
    """The content of a pickle of dicts, lists, tuples, numbers, strings and NumPy arrays.

    Strings of Python 2 are read as Latin-1, which the arrays of its time need.

    Raises:
        RefusedPickle: if the file asks for anything else; nothing of it has run.
        pickle.UnpicklingError: if it is truncated or no pickle.
    """
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file, encoding="latin1").load()
        except RefusedPickle:
            raise
        except _BROKEN as error:
            raise pickle.UnpicklingError("it is truncated or no pickle") from error
