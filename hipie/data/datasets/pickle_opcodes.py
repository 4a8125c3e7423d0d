"""A look at a pickle before it is read: is it plain data, and does it ask for what it has?

Python's unpickler believes what a file says: eight bytes can make it fill gigabytes with an empty
memo. This walk reads the opcodes (`pickletools` lists them) without building anything.
"""

from __future__ import annotations

import pickle
from itertools import chain

# What follows the opcode: a fixed number of bytes, or one of the codes below.
_LINE, _TWO_LINES, _LENGTH_1, _LENGTH_4, _LENGTH_8, _MEMO, _MEMO_LINE, _STOP, _UNKNOWN = range(
    -1, -10, -1
)
_PLAIN = {
    0: b"(012Nad}elst]u)\x85\x86\x87\x88\x89\x8f\x90\x91\x94",
    1: b"Kh\x80",
    2: b"M",
    4: b"Jj",
    8: b"G\x95",
    _LINE: b"FILSVg",
    _LENGTH_1: b"UC\x8a\x8c",
    _LENGTH_4: b"TXB\x8b",
    _LENGTH_8: b"\x8d\x8e\x96",
    _MEMO: b"r",
    _MEMO_LINE: b"p",
    _STOP: b".",
}
_SHORT_MEMO = ord("q")
_CODE = {0: b"Rbo\x81\x92\x93", _TWO_LINES: b"ci"}
_OUTSIDE = {0: b"Q\x97\x98", 1: b"\x82", 2: b"\x83", 4: b"\x84", _LINE: b"P"}


def _table(*kinds: dict[int, bytes]) -> list[int]:
    sizes = [_UNKNOWN] * 256
    sizes[_SHORT_MEMO] = 1
    for size, codes in chain.from_iterable(kind.items() for kind in kinds):
        for code in codes:
            sizes[code] = size
    return sizes


_DATA_ONLY = _table(_PLAIN)
_WITH_CODE = _table(_PLAIN, _CODE)
_NAMES = {"R": "a function call", "c": "a name", "b": "an object's state"}


class CodeInPickle(ValueError):
    """A pickle that is more than data; the message says what it asks for."""


def walk(data: bytes, code: bool = False) -> None:
    """Read the opcodes of a pickle.

    Args:
        data: the whole file.
        code: let names and calls pass; whoever reads it then has to look names up with care.

    Raises:
        CodeInPickle: if it has names or calls that may not be, or asks for outside objects.
        pickle.UnpicklingError: if it is cut short, or numbers its memo beyond its own length.
    """
    sizes = _WITH_CODE if code else _DATA_ONLY
    place, end = 0, len(data)
    while place < end:
        size = sizes[data[place]]
        if size >= 0:
            place += size + 1
        elif size == _STOP:
            return
        else:
            place = _after(data, place, size)
    raise pickle.UnpicklingError("it ends too early")


def _after(data: bytes, place: int, size: int) -> int:
    """Where the opcode after this one of variable length is."""
    start = place + 1
    if size == _LENGTH_4:
        return start + 4 + int.from_bytes(data[start : start + 4], "little")
    if size == _LENGTH_1:
        return start + 1 + int.from_bytes(data[start : start + 1], "little")
    if size == _LENGTH_8:
        return start + 8 + int.from_bytes(data[start : start + 8], "little")
    if size == _MEMO:
        _check_memo(int.from_bytes(data[start : start + 4], "little"), data)
        return start + 4
    if size in (_LINE, _MEMO_LINE, _TWO_LINES):
        after = _after_line(data, start)
        if size == _MEMO_LINE:
            digits = data[start : after - 1]
            if not digits.isdigit() or len(digits) > 12:
                raise pickle.UnpicklingError("its memo is not numbered")
            _check_memo(int(digits), data)
        return _after_line(data, after) if size == _TWO_LINES else after
    raise _refusal(data, place)


def _after_line(data: bytes, start: int) -> int:
    found = data.find(b"\n", start)
    if found < 0:
        raise pickle.UnpicklingError("it ends too early")
    return found + 1


def _check_memo(number: int, data: bytes) -> None:
    if number > len(data):
        raise pickle.UnpicklingError(f"its memo has a place {number}")


def _refusal(data: bytes, place: int) -> Exception:
    code = data[place : place + 1]
    if any(code in codes for codes in _OUTSIDE.values()):
        return CodeInPickle("it asks for an object from outside the file")
    if any(code in codes for codes in _CODE.values()):
        if code == b"c":
            names = data[place + 1 : place + 200].split(b"\n")[:2]
            return CodeInPickle(f"it asks for {b'.'.join(names).decode('utf-8', 'replace')}")
        return CodeInPickle(f"it asks for {_NAMES.get(code.decode('latin1'), 'an object')}")
    return pickle.UnpicklingError(f"there is no opcode {data[place]:#04x}")
