"""Reading MATLAB files of version 5: numbers, words and structs, nothing else.

The format is MathWorks' "MAT-File Format". scipy's reader ends the whole process on some damaged
files; this one checks every length against what is there, and every fault is one `ValueError`.
"""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

HEADER = 128
MOST_BYTES = 1 << 29
DEEPEST = 16
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
NUMBERS |= {13: "u8"}
MATRIX, COMPRESSED = 14, 15
LETTERS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
STRUCT, CHARACTERS, NUMERIC = 2, 4, range(6, 16)


def read_matlab(path: Path) -> dict[str, Any]:
    """The variables of a file by name.

    Returns:
        for numbers an array in the shape and kind that they are stored in, for words a string, for
        structs of any shape a list (down the columns) of dicts.

    Raises:
        ValueError: if the file is damaged, has something else in it, or unpacks to over 512 MiB.
        OSError: if it cannot be read.
    """
    data = path.read_bytes()
    mark = data[126:HEADER]
    if mark not in (b"IM", b"MI"):
        raise ValueError("it is no MATLAB file of version 5")
    place = _Place(data[HEADER:], "<" if mark == b"IM" else ">")
    found = {}
    while place.left:
        kind, content = place.element()
        if kind == COMPRESSED:
            kind, content = _Place(_unpacked(content), place.order).element()
        if kind == MATRIX:
            name, value = _matrix(_Place(content, place.order), 0)
            found[name] = value
    return found


class _Place:
    """Bytes, and how far they are read."""

    def __init__(self, data: bytes, order: str) -> None:
        self.order = order
        self._data, self._next = memoryview(data), 0

    @property
    def left(self) -> int:
        """How many bytes are not read yet."""
        return len(self._data) - self._next

    def element(self) -> tuple[int, memoryview]:
        """The kind and the content of the next element."""
        first = int(self._numbers(4, "u4")[0])
        if first >> 16:
            size, kind = first >> 16, first & 0xFFFF
            if size > 4:
                raise ValueError(f"a small element says that it has {size} bytes")
            return kind, self._take(4)[:size]
        content = self._take(int(self._numbers(4, "u4")[0]))
        if first != COMPRESSED:
            self._take(min(-len(content) % 8, self.left))
        return first, content

    def numbers(self) -> np.ndarray:
        """The next element, as a row of numbers."""
        kind, content = self.element()
        if kind not in NUMBERS:
            raise ValueError(f"there is an element of kind {kind} where numbers should be")
        return self._row(content, NUMBERS[kind])

    def _numbers(self, size: int, kind: str) -> np.ndarray:
        return self._row(self._take(size), kind)

    def _row(self, content: memoryview, kind: str) -> np.ndarray:
        return np.frombuffer(content, np.dtype(kind).newbyteorder(self.order))

    def _take(self, size: int) -> memoryview:
        if size > self.left:
            raise ValueError(f"it ends where {size - self.left} more bytes should be")
        self._next += size
        return self._data[self._next - size : self._next]


def _unpacked(content: memoryview) -> bytes:
    opener = zlib.decompressobj()
    try:
        data = opener.decompress(content, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    if opener.unconsumed_tail or not opener.eof:
        raise ValueError(f"it cannot be unpacked into {MOST_BYTES} bytes")
    return data


def _matrix(place: _Place, depth: int) -> tuple[str, Any]:
    """Name and value of a variable, or of a field, which has no name."""
    if not place.left:
        return "", np.zeros((0, 0))
    if depth > DEEPEST:
        raise ValueError(f"structs lie in each other more than {DEEPEST} deep")
    flags, shape = place.numbers(), [int(side) for side in place.numbers()]
    if len(flags) != 2 or len(shape) < 2 or min(shape) < 0:
        raise ValueError(f"a matrix says that its shape is {shape}")
    _, letters = place.element()
    name = bytes(letters).decode("latin-1")
    kind = int(flags[0]) & 0xFF
    if kind in NUMERIC and not int(flags[0]) & 0x800:
        return name, _shaped(place.numbers(), shape)
    if kind == CHARACTERS:
        return name, _word(place, shape)
    if kind == STRUCT:
        return name, _structs(place, math.prod(shape), depth)
    raise ValueError(f'"{name}" is of MATLAB\'s class {kind}, which is not read')


def _shaped(values: np.ndarray, shape: list[int]) -> np.ndarray:
    if len(values) != math.prod(shape):
        raise ValueError(f"a matrix has {len(values)} numbers, and should be of shape {shape}")
    return values.reshape(shape, order="F")


def _word(place: _Place, shape: list[int]) -> str:
    kind, content = place.element()
    if kind not in LETTERS or (math.prod(shape) and shape[0] != 1):
        raise ValueError(f"a word is stored as kind {kind}, of shape {shape}")
    wide = LETTERS[kind].startswith("utf-") and kind != 16
    ending = {"<": "-le", ">": "-be"}[place.order] if wide else ""
    return bytes(content).decode(LETTERS[kind] + ending)


def _structs(place: _Place, count: int, depth: int) -> list[dict[str, Any]]:
    length = int(place.numbers()[:1].sum())
    _, letters = place.element()
    if length <= 0 or len(letters) % length:
        raise ValueError(f"the names of fields say that they are of {length} letters each")
    pieces = [bytes(letters[i : i + length]) for i in range(0, len(letters), length)]
    names = [piece.split(b"\0")[0].decode("latin-1") for piece in pieces]
    # Every field takes eight bytes at least.
    if count * max(len(names), 1) * 8 > place.left:
        raise ValueError(f"there are fewer than the {count} structs that should be there")
    return [{name: _field(place, depth) for name in names} for _ in range(count)]


def _field(place: _Place, depth: int) -> Any:
    kind, content = place.element()
    if kind != MATRIX:
        raise ValueError(f"a field is of kind {kind}, and should be a matrix")
    return _matrix(_Place(content, place.order), depth + 1)[1]
