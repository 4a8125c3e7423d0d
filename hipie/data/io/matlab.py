"""Reader of MATLAB files of version 5: numeric arrays, strings and structs.

Format: MathWorks, "MAT-File Format". scipy's reader crashes the process on some damaged files;
this one checks every length against the data, and every fault is a `ValueError`.
"""

from __future__ import annotations

import math
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.data.io.regular_file import read_file
from hipie.errors import InputError, cause_of

HEADER_BYTES = 128
MAX_UNPACKED_BYTES = 1 << 29
MAX_DEPTH = 16
# Data types of elements -> NumPy's.
NUMERIC_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
NUMERIC_TYPES |= {13: "u8"}
MATRIX, COMPRESSED = 14, 15
TEXT_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
# Array classes of matrices.
STRUCT_CLASS, CHAR_CLASS, NUMERIC_CLASSES = 2, 4, range(6, 16)
COMPLEX_FLAG = 0x800
MIN_FIELD_BYTES = 8


def read_matlab(path: Path) -> dict[str, Any]:
    """Read the variables of a MATLAB file.

    Args:
        path: a file of version 5.

    Returns:
        name -> value: for numbers an array in its stored shape and type, for text a string, for
        structs of any shape a list (in column order) of dicts, without their fields of other
        classes (cells, sparse and complex matrices, ...).

    Raises:
        ValueError: if the file is damaged, holds another type, or unpacks to over 512 MiB.
        OSError: if it cannot be read.
    """
    data = read_file(path, "MATLAB file")
    mark = data[126:HEADER_BYTES]
    if mark not in (b"IM", b"MI"):
        raise InputError("it is not a MATLAB file of version 5")
    reader = _Reader(data[HEADER_BYTES:], "<" if mark == b"IM" else ">")
    variables = {}
    while reader.remaining:
        data_type, content = reader.element()
        if data_type == COMPRESSED:
            data_type, content = _Reader(_decompress(content), reader.byte_order).element()
        if data_type == MATRIX:
            name, value = _matrix(_Reader(content, reader.byte_order), 0)
            variables[name] = value
    return variables


class _UnsupportedClassError(InputError):
    """A matrix of a class that is not read."""


class _Reader:
    """Sequential reader of the data elements in a buffer."""

    def __init__(self, data: bytes | memoryview, byte_order: str) -> None:
        self.byte_order = byte_order
        self._data, self._position = memoryview(data), 0

    @property
    def remaining(self) -> int:
        """Number of bytes after the position."""
        return len(self._data) - self._position

    def element(self) -> tuple[int, memoryview]:
        """Read the next element: data type and content."""
        first = int(self._numbers(4, "u4")[0])
        if first >> 16:
            size, data_type = first >> 16, first & 0xFFFF
            if size > 4:
                raise InputError(f"a small element declares {size} bytes, more than 4")
            return data_type, self._take(4)[:size]
        content = self._take(int(self._numbers(4, "u4")[0]))
        if first != COMPRESSED:
            self._take(min(-len(content) % 8, self.remaining))
        return first, content

    def numbers(self) -> NDArray[Any]:
        """Read the next element, which must be numeric: [N]."""
        data_type, content = self.element()
        if data_type not in NUMERIC_TYPES:
            raise InputError(f"an element has the data type {data_type} instead of numbers")
        return self._array(content, NUMERIC_TYPES[data_type])

    def _numbers(self, size: int, dtype: str) -> NDArray[Any]:
        return self._array(self._take(size), dtype)

    def _array(self, content: memoryview, dtype: str) -> NDArray[Any]:
        kind = np.dtype(self.byte_order + dtype)
        if len(content) % kind.itemsize:
            raise InputError(f"an element of {len(content)} bytes has no numbers of {kind.name}")
        return np.frombuffer(content, kind)

    def _take(self, size: int) -> memoryview:
        if size > self.remaining:
            raise InputError(f"it ends {size - self.remaining} bytes too early")
        self._position += size
        return self._data[self._position - size : self._position]


def _decompress(content: memoryview) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        data = decompressor.decompress(content, MAX_UNPACKED_BYTES)
    except zlib.error as error:
        raise InputError(f"it cannot be decompressed: {cause_of(error)}") from error
    if decompressor.unconsumed_tail or not decompressor.eof:
        raise InputError(f"it cannot be decompressed into {MAX_UNPACKED_BYTES} bytes")
    return data


def _matrix(reader: _Reader, depth: int) -> tuple[str, Any]:
    """Read name and value of a variable, or of a struct's field, which has no name."""
    if not reader.remaining:
        return "", np.zeros((0, 0))
    if depth > MAX_DEPTH:
        raise InputError(f"structs are nested more than {MAX_DEPTH} deep")
    flags, shape = reader.numbers(), [int(side) for side in reader.numbers()]
    if len(flags) != 2 or len(shape) < 2 or min(shape) < 0:
        raise InputError(f"a matrix has the invalid shape {shape}")
    _, letters = reader.element()
    name = bytes(letters).decode("latin-1")
    array_class = int(flags[0]) & 0xFF
    if array_class in NUMERIC_CLASSES and not int(flags[0]) & COMPLEX_FLAG:
        return name, _reshape(reader.numbers(), shape)
    if array_class == CHAR_CLASS:
        return name, _string(reader, shape)
    if array_class == STRUCT_CLASS:
        return name, _structs(reader, math.prod(shape), depth)
    raise _UnsupportedClassError(f'"{name}" has the unsupported array class {array_class}')


def _reshape(values: NDArray[Any], shape: list[int]) -> NDArray[Any]:
    if len(values) != math.prod(shape):
        raise InputError(f"a matrix of shape {shape} has {len(values)} numbers")
    return values.reshape(shape, order="F")


def _string(reader: _Reader, shape: list[int]) -> str:
    data_type, content = reader.element()
    if data_type not in TEXT_ENCODINGS or (0 not in shape and shape[0] != 1):
        raise InputError(f"a string has the data type {data_type} and the shape {shape}")
    wide = TEXT_ENCODINGS[data_type].startswith("utf-") and data_type != 16
    suffix = {"<": "-le", ">": "-be"}[reader.byte_order] if wide else ""
    try:
        return bytes(content).decode(TEXT_ENCODINGS[data_type] + suffix)
    except UnicodeDecodeError as error:
        raise InputError(f"a string is no valid text ({error.reason})") from error


def _structs(reader: _Reader, count: int, depth: int) -> list[dict[str, Any]]:
    length = int(reader.numbers()[:1].sum())
    _, letters = reader.element()
    if length <= 0 or len(letters) % length:
        raise InputError(f"names of fields have the invalid length {length}")
    padded = [bytes(letters[i : i + length]) for i in range(0, len(letters), length)]
    names = [name.split(b"\0")[0].decode("latin-1") for name in padded]
    if count * max(len(names), 1) * MIN_FIELD_BYTES > reader.remaining:
        raise InputError(f"there are fewer than the declared {count} structs")
    return [_struct(reader, names, depth) for _ in range(count)]


def _struct(reader: _Reader, names: list[str], depth: int) -> dict[str, Any]:
    fields = {}
    for name in names:
        data_type, content = reader.element()
        if data_type != MATRIX:
            raise InputError(f"a field has the data type {data_type} instead of a matrix")
        with suppress(_UnsupportedClassError):
            fields[name] = _matrix(_Reader(content, reader.byte_order), depth + 1)[1]
    return fields
