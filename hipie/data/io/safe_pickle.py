"""Reader of pickled annotations that cannot run code: RefCOCO's `refs(*).p`, D3's tables.

Only lists, dicts, strings and numbers may be built, on request NumPy arrays of numbers as well.
A pickle that names any other class or function is refused before anything of it is built. Pickles
of Python 2 are supported.

Python's unpickler trusts the sizes that a file declares: eight bytes make it allocate gigabytes
for an empty memo. So the opcodes (see `pickletools`) are scanned first. One regular expression
matches almost all of a file; the opcodes that it stops at are checked one by one.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

from hipie.checkpoint.safe_pickle import NUMPY_STAND_INS, ArrayStandIn
from hipie.data.io.validation import DatasetError
from hipie.errors import InputError, MissingFileError, cause_of

# Opcodes of plain data, by what follows them: nothing, a fixed number of bytes, a line.
_BARE = b"(012Nad}elst]u)\x85\x86\x87\x88\x89\x8f\x90\x91\x94"
_FIXED = {1: b"Khq\x80", 2: b"M", 4: b"Jj", 8: b"G\x95"}
_LINES = b"FILSVg"
# Opcodes whose content follows a length of 1, 4 or 8 bytes.
_LENGTHS = {1: b"UC\x8a\x8c", 4: b"TXB\x8b", 8: b"\x8d\x8e\x96"}
_SHORT_STRING = 48
# Opcodes that need code.
_CODE = {
    ord("c"): "a name",
    ord("i"): "an object",
    ord("o"): "an object",
    ord("b"): "an object's state",
    ord("R"): "a function call",
    0x81: "an object",
    0x92: "an object",
    0x93: "a name",
}
_TWO_LINES = b"ci"
_EXTERNAL = b"PQ\x82\x83\x84\x97\x98"
_STOP = ord(".")

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


class CodeInPickle(InputError):
    """A pickle that needs code; the message names what it needs."""


def read_plain_pickle(path: str | os.PathLike[str], arrays: bool = False) -> Any:
    """Read a pickle of plain data.

    Args:
        path: the file.
        arrays: allow NumPy arrays of numbers; `array_to_list` converts their stand-ins to lists.

    Raises:
        FileNotFoundError: if there is no such file.
        UnsafePickleError: if the pickle needs code.
        DamagedPickleError: if the file is damaged or not a pickle.
    """
    path = Path(path)
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such file")
    data = path.read_bytes()
    unpickler = _ArrayUnpickler if arrays else _PlainUnpickler
    try:
        scan_pickle(data, code=arrays)
        return unpickler(io.BytesIO(data), encoding="utf-8").load()
    except CodeInPickle as error:
        raise UnsafePickleError(f"{path}: this pickle is not plain data: {error}") from error
    except _UNPICKLING_ERRORS as error:
        raise DamagedPickleError(
            f"{path}: this pickle is damaged or incomplete ({cause_of(error)})"
        ) from error


def array_to_list(value: Any) -> Any:
    """Return the list that an array's stand-in holds; any other value as it is."""
    return value.value.tolist() if isinstance(value, ArrayStandIn) else value


def scan_pickle(data: bytes, code: bool = False) -> None:
    """Check the opcodes of a pickle without executing them.

    Args:
        data: the whole file.
        code: allow names and calls; the unpickler must then restrict the names.

    Raises:
        CodeInPickle: if the pickle needs code that is not allowed, or external objects.
        pickle.UnpicklingError: if it is truncated, or numbers its memo beyond its own length.
    """
    plain_opcodes = _plain_opcodes(len(data))
    position = 0
    while True:
        match = plain_opcodes.match(data, position)
        position = match.end() if match else position
        if position >= len(data):
            raise pickle.UnpicklingError("it ends too early")
        if data[position] == _STOP:
            return
        position = _skip_opcode(data, position, code)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Stand-in for `_codecs.encode`, by which protocol 2 and below store the bytes of an array."""
    if encoding not in ("latin1", "latin-1"):
        raise CodeInPickle(f"it needs the encoding {encoding}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    allowed: ClassVar[dict[str, Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self.allowed:
            raise CodeInPickle(f"it needs {full_name}")
        return self.allowed[full_name]

    def persistent_load(self, pid: Any) -> Any:
        raise CodeInPickle("it needs an object from outside the file")


class _ArrayUnpickler(_PlainUnpickler):
    allowed: ClassVar[dict[str, Any]] = {"_codecs.encode": _latin1_bytes, **NUMPY_STAND_INS}


def _plain_opcodes(length: int) -> re.Pattern[bytes]:
    """Compile a pattern of consecutive complete opcodes of plain data, memo numbers <= `length`."""
    choices = [_any_byte_of(_BARE)]
    choices += [_any_byte_of(codes) + b".{%d}" % size for size, codes in _FIXED.items()]
    choices.append(_any_byte_of(_LINES) + rb"[^\n]*\n")
    strings = b"|".join(
        re.escape(bytes([size])) + b"\\0{3}.{%d}" % size for size in range(_SHORT_STRING)
    )
    choices.append(b"X(?:" + strings + b")")
    choices.append(b"p(?:" + _decimal_up_to(length) + rb")\n")
    choices.append(b"r(?:" + _little_endian_up_to(length) + b")")
    return re.compile(b"(?:" + b"|".join(choices) + b")*+", re.DOTALL)


def _any_byte_of(codes: bytes) -> bytes:
    return b"[" + b"".join(re.escape(bytes([code])) for code in codes) + b"]"


def _decimal_up_to(number: int) -> bytes:
    """Return a pattern of the decimals from 0 to `number`, without leading zeros."""
    digits = str(number)
    choices = [rf"\d{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    for position, digit in enumerate(digits):
        if digit != "0":
            rest = len(digits) - position - 1
            choices.append(rf"{digits[:position]}[0-{int(digit) - 1}]\d{{{rest}}}")
    return "|".join([digits, *choices]).encode()


def _little_endian_up_to(number: int) -> bytes:
    """Return a pattern of the 4-byte little-endian integers from 0 to `number`."""
    value = min(number, 2**32 - 1).to_bytes(4, "little")
    choices = [re.escape(value)]
    for position, byte in enumerate(value):
        if byte:
            smaller = b"[\\0-" + re.escape(bytes([byte - 1])) + b"]"
            choices.append(b".{%d}" % position + smaller + re.escape(value[position + 1 :]))
    return b"|".join(choices)


def _skip_opcode(data: bytes, position: int, code: bool) -> int:
    """Return the position after an opcode that `_plain_opcodes` does not match."""
    opcode, start = data[position], position + 1
    for size, codes in _LENGTHS.items():
        if opcode in codes:
            return start + size + int.from_bytes(data[start : start + size], "little")
    if opcode in _CODE and code:
        if opcode not in _TWO_LINES:
            return start
        return _skip_line(data, _skip_line(data, start))
    if opcode in _CODE:
        name = _CODE[opcode]
        if opcode == ord("c"):
            name = b".".join(data[start : start + 200].split(b"\n")[:2]).decode("utf-8", "replace")
        raise CodeInPickle(f"it needs {name}")
    if opcode in _EXTERNAL:
        raise CodeInPickle("it needs an object from outside the file")
    if opcode in b"pr":
        raise pickle.UnpicklingError("it numbers its memo beyond its own length")
    if opcode in _BARE + _LINES + b"".join(_FIXED.values()):
        raise pickle.UnpicklingError("it ends too early")
    raise pickle.UnpicklingError(f"there is no opcode {opcode:#04x}")


def _skip_line(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    if end < 0:
        raise pickle.UnpicklingError("it ends too early")
    return end + 1
