"""A pickle reader that knows arrays and plain containers, and refuses everything else.

Detectron2's model zoo keeps its backbones in `.pkl` files, which the ordinary reader would let run
any code. This one looks up a name in a short table and never imports what a file asks for.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

from hipie.checkpoint.safe_numpy import STAND_INS, resolved

# What a file breaks with when bytes are missing or wrong.
_BROKEN = (
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


class RefusedPickle(pickle.UnpicklingError):
    """The file asks for something that is neither an array nor a plain container."""


def _encode(text: str, encoding: str = "") -> bytes:
    """How old pickles write bytes; of the many encodings of `codecs`, only theirs."""
    if encoding.lower() not in ("latin1", "latin-1"):
        raise RefusedPickle(f'it asks for the encoding "{encoding}"')
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """How old pickles write an empty array's bytes."""
    return b""


_KNOWN = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    "__builtin__.str": _no_bytes,
    "builtins.bytes": _no_bytes,
    "collections.OrderedDict": OrderedDict,
    **STAND_INS,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if asked not in _KNOWN:
            raise RefusedPickle(f'it asks for "{asked}", and only plain arrays are read')
        return _KNOWN[asked]


def read_plain_pickle(path: str | Path) -> Any:
    """The content of a pickle of dicts, lists, tuples, numbers, strings and NumPy arrays.

    Strings of Python 2 are read as Latin-1, which the arrays of its time need.

    Raises:
        RefusedPickle: if the file asks for anything else; nothing of it has run.
        pickle.UnpicklingError: if it is truncated or no pickle.
    """
    with open(path, "rb") as file:
        try:
            return resolved(_PlainUnpickler(file, encoding="latin1").load())
        except RefusedPickle:
            raise
        except _BROKEN as error:
            raise pickle.UnpicklingError("it is truncated or no pickle") from error
