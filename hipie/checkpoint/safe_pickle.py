"""Pickle reader for plain containers, NumPy arrays and tensors that never runs code.

Python's unpickler imports and calls whatever a file names. The one here imports nothing: a name
becomes a `Global`, a token without behaviour, and a call to it either runs one of the few functions
of a table (they build arrays and containers) or makes an `InertObject`, which records the name, the
arguments and the state. Settings that people store beside weights (`argparse.Namespace`, paths,
configuration objects) so cost nothing and do nothing. A name of the standard library, of PyTorch or
of NumPy that is not known to hold data is refused: such a pickle was made to run code.

NumPy restores data types and arrays from any flags and bytes in a pickle, and crashes on damaged
ones. The stand-ins below accept the few fields of a plain array, check them, and build the array
from its bytes.

Format: the opcodes of Python's `pickletools`, protocols 0 to 5. `hipie.pickle_scan` checks them,
and the pure-Python `pickle._Unpickler` interprets them with every opcode replaced that creates,
calls or changes an object.
"""

from __future__ import annotations

import _compat_pickle
import io
import mmap
import os
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np

from hipie.errors import printable
from hipie.pickle_scan import MAX_INTEGER_BYTES, UnsafePickleError, require_small, scan_pickle

_PLAIN_DTYPE = re.compile(r"[<>=|]?[biufc]\d{1,2}")
# Errors of an unpickler on missing or wrong bytes.
_DAMAGED = (
    pickle.UnpicklingError,
    EOFError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
# Names of the standard library, PyTorch and NumPy that hold data; any other is refused.
_DATA_NAMES = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|uuid\.UUID|decimal\.Decimal|fractions\.Fraction"
    r"|pathlib\.(_local\.)?\w+|datetime\.\w+|collections\.(Counter|deque|ChainMap|UserDict)"
    r"|(builtins|__builtin__)\.(object|set|frozenset|complex|slice|range|x?range|list|dict|tuple"
    r"|int|long|float|bool|str|unicode|bytes|bytearray)"
    r"|copy_?reg\.(_reconstructor|__newobj__)"
    r"|torch\.(torch_version|version|nn|optim|distributed)\.[\w.]+|torch\.Generator"
    r"|numpy\.random\.[\w.]+|numpy\.(core|_core)\.multiarray\.\w+|numpy\.\w+"
)
# Python 2's names of modules of the standard library are among them.
_CHECKED_PACKAGES = frozenset(
    {*sys.stdlib_module_names, *_compat_pickle.IMPORT_MAPPING, "torch", "numpy"}
)
_NUMPY_FUNCTIONS = re.compile(r"numpy\.(load|save\w*|fromfile|memmap|lib|distutils|f2py|testing).*")


@dataclass(frozen=True)
class Global:
    """Name in a pickle, `module.name`; nothing is imported.

    Attributes:
        name: the whole name.
        function: called with the pickle's arguments; None makes an `InertObject`.
    """

    name: str
    function: Callable[..., Any] | None = None

    def call(self, args: tuple[Any, ...]) -> Any:
        """Return the result of the function, or an inert object."""
        return InertObject(self.name, args) if self.function is None else self.function(*args)


@dataclass(eq=False)
class InertObject:
    """Object of a foreign class: what the pickle says about it, without the class.

    Attributes:
        name: of its class or function, `module.name`.
        args: arguments of the call.
        state: argument of `__setstate__`, or None.
        items: values that were set or appended.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Record a value of a list-like object."""
        self.items[len(self.items)] = value

    add = append

    def extend(self, values: list[Any]) -> None:
        """Record the values of a list-like object."""
        for value in values:
            self.append(value)

    def set_state(self, state: Any) -> None:
        """Record the state."""
        self.state = state


class DTypeStandIn:
    """Stand-in for `numpy.dtype`: numbers and booleans only."""

    def __init__(self, code: str = "", *_flags: object) -> None:
        if not isinstance(code, str) or not _PLAIN_DTYPE.fullmatch(code):
            raise TypeError(f"arrays of {code!r} are not plain")
        self.code = code.lstrip("<>=|")
        self.order: Literal["<", ">", "=", "|"] = "="

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Set the byte order; fields and subtypes are refused."""
        order = state[1]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise TypeError("an array of records is not plain")
        self.order = order

    __setstate__ = set_state  # called by C unpicklers

    def dtype(self) -> np.dtype[Any]:
        """Return NumPy's data type."""
        return np.dtype(self.code).newbyteorder(self.order)


class ArrayStandIn:
    """Stand-in for `numpy.ndarray`; `value` is the array."""

    def __init__(self) -> None:
        self.value: np.ndarray[Any, Any] = np.zeros(0, "f4")

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Build the array from its shape, data type, order and bytes."""
        _version, shape, dtype, column_major, data = state
        self.value = _array(data, dtype, shape, "F" if column_major else "C")

    __setstate__ = set_state  # called by C unpicklers


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
    if not isinstance(dtype, DTypeStandIn):
        raise TypeError("an array without a data type")
    raw = data.encode("latin1") if isinstance(data, str) else memoryview(data)
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


def _encode(text: str, encoding: str = "") -> bytes:
    """Stand-in for `codecs.encode` with Latin-1, by which pickles of Python 2 store bytes."""
    if encoding.lower() not in ("latin1", "latin-1"):
        raise UnsafePickleError(f'it names the encoding "{printable(encoding)}"')
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    """Stand-in for `bytes` and Python 2's `str`: nothing, or a copy of bytes."""
    if args and isinstance(args[0], bytes):
        return args[0]
    return b""


def _ordered_dict(*args: Any) -> OrderedDict[Any, Any]:
    """Stand-in for `OrderedDict`: empty, or of pairs, as Python 2 pickles it."""
    return OrderedDict(tuple(pair) for pair in args[0]) if args else OrderedDict()


def _set_of(kind: type) -> Callable[..., Any]:
    def build(*args: Any) -> Any:
        if args and type(args[0]) not in (list, tuple):
            raise TypeError("a set of something other than a list")
        return kind(*args)

    return build


def _plain_dict(*_: Any) -> dict[Any, Any]:
    """Stand-in for `defaultdict`, without the function that makes defaults."""
    return {}


# Functions that are run, all of them from this module.
PLAIN_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "__builtin__.bytes": _bytes,
    "__builtin__.str": _bytes,
    "builtins.bytes": _bytes,
    "builtins.set": _set_of(set),
    "builtins.frozenset": _set_of(frozenset),
    "__builtin__.set": _set_of(set),
    "__builtin__.frozenset": _set_of(frozenset),
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _plain_dict,
    **NUMPY_STAND_INS,
}


class SafeUnpickler(pickle._Unpickler):
    """Unpickler of one pickle that imports and calls nothing but the functions it is given.

    Args:
        file: at the start of the pickle; left at its end.
        functions: by the names that the file uses, beside `PLAIN_FUNCTIONS`.
        persistent_load: builds what the pickle refers to outside itself (PyTorch's storages).
        encoding: of Python 2's strings.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def __init__(
        self,
        file: BinaryIO,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        persistent_load: Callable[[Any], Any] | None = None,
        encoding: str = "latin1",
    ) -> None:
        super().__init__(_BoundedFile(file), encoding=encoding)
        self._file = file
        self._functions = {**PLAIN_FUNCTIONS, **(functions or {})}
        self._persistent = persistent_load
        # Depth and number of values of each tuple, by identity; the tuples are kept alive with it.
        self._tuples: dict[int, tuple[int, int, tuple[Any, ...]]] = {}

    def load(self) -> Any:
        """Scan the pickle, and build what is in it.

        Raises:
            UnsafePickleError: see `hipie.pickle_scan.scan_pickle`; and if it names code.
            pickle.UnpicklingError: if it is truncated.
        """
        _scan(self._file)
        return super().load()

    def find_class(self, module: str, name: str) -> Global:
        """Return the token of a name.

        Raises:
            UnsafePickleError: if it is a function of the standard library, PyTorch or NumPy.
        """
        full_name = f"{module}.{name}"
        if full_name in self._functions:
            return Global(full_name, self._functions[full_name])
        package = module.partition(".")[0]
        known = package not in _CHECKED_PACKAGES or _DATA_NAMES.fullmatch(full_name)
        if not known or _NUMPY_FUNCTIONS.fullmatch(full_name):
            raise UnsafePickleError(f'it names "{printable(full_name)}", which is code')
        return Global(full_name)

    def persistent_load(self, pid: Any) -> Any:
        """Return what a reference to something outside the pickle stands for.

        Raises:
            UnsafePickleError: if this kind of file has no such references.
        """
        if self._persistent is None:
            raise UnsafePickleError("it names an object outside the file")
        return self._persistent(pid)

    def get_extension(self, code: int) -> None:
        """Refuse the copyreg extension registry.

        Raises:
            UnsafePickleError: always.
        """
        raise UnsafePickleError(f"it names the extension {code}")

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global) or type(args) is not tuple:
            raise UnsafePickleError("it calls something other than a name")
        if function.name.endswith(("._reconstructor", ".__newobj__")) and args:
            # Protocols 0 and 1 make an object by its class, a base class and its value.
            return self._call(args[0], ())
        value = function.call(args)
        return self._measured(value) if isinstance(value, frozenset) else value

    def _load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    def _load_newobj_ex(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        value = self._call(self.stack[-1], args)
        if isinstance(value, InertObject) and type(keywords) is dict:
            value.items.update(keywords)
        self.stack[-1] = value

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._call(klass, tuple(args)))

    def _load_build(self) -> None:
        state = self.stack.pop()
        instance = self.stack[-1]
        if isinstance(instance, InertObject | ArrayStandIn | DTypeStandIn):
            instance.set_state(state)
        elif not isinstance(instance, OrderedDict | dict):
            raise UnsafePickleError("it sets the state of something other than an object")

    def _load_tuple(self) -> None:
        value = self._measured(tuple(self.pop_mark()))
        self.append(value)

    def _load_small_tuple(self, length: int) -> None:
        items = tuple(self.stack[-length:])
        if len(items) < length:
            raise pickle.UnpicklingError("its stack is empty")
        del self.stack[-length:]
        self.append(self._measured(items))

    def _load_frozenset(self) -> None:
        value = self._measured(frozenset(self.pop_mark()))
        self.append(value)

    def _measured(self, value: Any) -> Any:
        """Check the depth and the number of values of something whose hash visits all of them."""
        depth, count = 1, 1
        for item in value:
            item_depth, item_count, _ = self._tuples.get(id(item), (0, 1, ()))
            depth, count = max(depth, item_depth + 1), count + item_count
        require_small(depth, count)
        self._tuples[id(value)] = depth, count, value
        return value

    def _load_long4(self) -> None:
        size = int.from_bytes(self.read(4), "little", signed=True)
        if not 0 <= size <= MAX_INTEGER_BYTES:
            raise UnsafePickleError(f"it holds an integer of {size} bytes")
        self.append(int.from_bytes(self.read(size), "little", signed=True))

    def _load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: _load_reduce,
        pickle.NEWOBJ[0]: _load_reduce,
        pickle.NEWOBJ_EX[0]: _load_newobj_ex,
        pickle.BUILD[0]: _load_build,
        pickle.TUPLE[0]: _load_tuple,
        pickle.TUPLE1[0]: lambda self: self._load_small_tuple(1),
        pickle.TUPLE2[0]: lambda self: self._load_small_tuple(2),
        pickle.TUPLE3[0]: lambda self: self._load_small_tuple(3),
        pickle.FROZENSET[0]: _load_frozenset,
        pickle.LONG4[0]: _load_long4,
        pickle.BYTEARRAY8[0]: _load_bytearray8,
    }


def _scan(file: BinaryIO) -> None:
    """Scan the pickle at a file's position, without reading the file into memory."""
    if isinstance(file, io.BytesIO):
        scan_pickle(file.getbuffer(), file.tell(), code=True)
        return
    if not os.fstat(file.fileno()).st_size:
        raise EOFError
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        scan_pickle(data, file.tell(), code=True)


class _BoundedFile:
    """File of which no more is asked than it has, whatever lengths a pickle declares."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        position = file.tell()
        self._end = file.seek(0, os.SEEK_END)
        file.seek(position)

    def read(self, size: int) -> bytes:
        if size > self._end - self._file.tell():
            raise EOFError
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline()


def load_safely(unpickler: SafeUnpickler) -> Any:
    """Load a pickle and replace the stand-ins in its containers by arrays and data types.

    Raises:
        UnsafePickleError: see `SafeUnpickler`; or if the containers are too deep or too many.
        pickle.UnpicklingError: if the pickle is damaged.
    """
    try:
        return resolve_stand_ins(unpickler.load())
    except UnsafePickleError:
        raise
    except _DAMAGED as error:
        raise pickle.UnpicklingError("it is truncated or no pickle") from error


def read_pickle(path: str | Path) -> Any:
    """Read a pickle of dicts, lists, tuples, numbers, strings and NumPy arrays.

    Strings of Python 2 are decoded as Latin-1, as the arrays of its time need.

    Args:
        path: the file.

    Returns:
        The content; objects of other classes are `InertObject`s.

    Raises:
        UnsafePickleError: if the file names code; nothing of it has run.
        pickle.UnpicklingError: if it is truncated or no pickle.
    """
    with open(path, "rb") as file:
        return load_safely(SafeUnpickler(file))


def read_pickle_bytes(data: bytes) -> Any:
    """Read a pickle from memory; see `read_pickle`."""
    return load_safely(SafeUnpickler(io.BytesIO(data)))


def resolve_stand_ins(content: Any) -> Any:
    """Replace the stand-ins in plain containers by NumPy's arrays and data types.

    Objects that are not plain containers are returned as they are.

    Raises:
        UnsafePickleError: if containers hold themselves, are nested too deeply, or hold too many
            values when those that occur several times are counted each time.
    """
    return _resolve(content, 0, {})[0]


def _resolve(content: Any, depth: int, known: dict[int, Any]) -> tuple[Any, int]:
    """Return the resolved value and the number of values in it.

    `known` maps the identity of a container to its result, or to None while it is being visited;
    results keep the containers alive.
    """
    if isinstance(content, ArrayStandIn):
        return content.value, 1
    if isinstance(content, DTypeStandIn):
        return content.dtype(), 1
    if type(content) not in (dict, OrderedDict, list, tuple):
        return content, 1
    key = id(content)
    if key in known:
        if known[key] is None:
            raise UnsafePickleError("a container in it holds itself")
        resolved, count, _ = known[key]
        return resolved, count
    known[key] = None
    require_small(depth, 0)
    is_mapping = isinstance(content, dict)
    count = 1
    values = []
    for value in content.values() if is_mapping else content:
        resolved, item_count = _resolve(value, depth + 1, known)
        values.append(resolved)
        count += item_count
    require_small(0, count)
    kind = type(content)
    result = kind(zip(content, values, strict=True)) if is_mapping else kind(values)
    known[key] = result, count, content
    return result, count
