"""Check of a pickle's opcodes before anything is built of it.

Unpicklers trust what a file declares: eight bytes make them allocate gigabytes for an empty memo, a
list twice in the next list, forty times, becomes 2^40 values as soon as it is visited, and the hash
of a tuple in a tuple, 150,000 deep, ends the process. So all pickles that the package reads,
annotations and weights, are scanned first. One regular expression matches almost all of a file; the
opcodes that it stops at are checked one by one.

Format: the opcodes of Python's `pickletools`, protocols 0 to 5.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any

from hipie.errors import InputError, printable

# Limits on what a file may build: depth of containers, number of values when containers that occur
# several times are counted each time, containers, numbers of the memo, bytes of an integer.
MAX_DEPTH = 100
MAX_VALUES = 20_000_000
MAX_CONTAINERS = 5_000_000
MAX_MEMO = 50_000_000
MAX_INTEGER_BYTES = 256

Buffer = bytes | bytearray | memoryview | mmap

# Opcodes of plain data, by what follows them: nothing, a fixed number of bytes, a line.
_BARE = b"012Naesu\x88\x89\x90"
_FIXED = {1: b"Khq\x80", 2: b"M", 4: b"Jj", 8: b"G\x95"}
_LINES = b"FILSVg"
# Opcodes whose content follows a length of 1, 4 or 8 bytes.
_LENGTHS = {1: b"UC\x8a\x8c", 4: b"TXB\x8b", 8: b"\x8d\x8e\x96"}
_SHORT_STRING = 48
# Opcodes that make a container or note the begin of one, or a number of the memo.
_TUPLES = b"t\x85\x86\x87\x91"
_CONTAINERS = b"(]})dl\x8f\x94" + _TUPLES
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
_LONG4 = 0x8B
_EXTERNAL = b"PQ\x82\x83\x84\x97\x98"
_EXTERNAL_SIZES = {0x82: 1, 0x83: 2, 0x84: 4}
_STOP = ord(".")
_LINE_END = re.compile(b"\n")


class UnsafePickleError(InputError, pickle.UnpicklingError):
    """Pickle that names code, or is built to exhaust the machine; nothing of it was run."""


@dataclass(frozen=True)
class PickleScan:
    """Result of `scan_pickle`.

    Attributes:
        end: position after the pickle.
        names: whether it names anything outside itself.
        tuples: number of tuples and frozensets, whose hash visits all that is in them.
    """

    end: int
    names: bool
    tuples: int


def scan_pickle(data: Buffer, start: int = 0, *, code: bool) -> PickleScan:
    """Check the opcodes of a pickle without executing them.

    Args:
        data: the whole file; not copied.
        start: position of the pickle.
        code: allow names, calls and references to objects outside; the unpickler must then restrict
            them.

    Raises:
        UnsafePickleError: if it needs code that is not allowed, or more than one of the limits.
        pickle.UnpicklingError: if it is truncated, or numbers its memo beyond its own length.
    """
    plain_opcodes = _plain_opcodes(min(len(data), MAX_MEMO))
    position, containers, tuples, names = start, 0, 0, False
    while True:
        match = plain_opcodes.match(data, position)
        position = match.end() if match else position
        if position >= len(data):
            raise pickle.UnpicklingError("it ends too early")
        opcode = data[position]
        if opcode in _CONTAINERS:
            containers += 1
            tuples += opcode in _TUPLES
            position += 1
            if containers > MAX_CONTAINERS:
                raise UnsafePickleError(f"it has more than {MAX_CONTAINERS:,} containers")
        elif opcode == _STOP:
            return PickleScan(position + 1, names, tuples)
        else:
            names = names or opcode in _CODE or opcode in _EXTERNAL
            position = _skip_opcode(data, position, code)


def require_few_values(content: Any) -> None:
    """Check how deep plain containers are nested, and how many values they repeat to.

    Raises:
        UnsafePickleError: if containers hold themselves, are nested too deeply, or hold too many
            values when those that occur several times are counted each time.
    """
    _count_values(content, 0, {})


def require_small(depth: int, count: int) -> None:
    """Check a depth and a number of values against the limits.

    Raises:
        UnsafePickleError: naming the limit.
    """
    if depth > MAX_DEPTH:
        raise UnsafePickleError(f"its containers are nested more than {MAX_DEPTH} deep")
    if count > MAX_VALUES:
        raise UnsafePickleError(f"its containers repeat to more than {MAX_VALUES:,} values")


def _count_values(container: Any, depth: int, known: dict[int, int | None]) -> int:
    """Return the number of values; `known` has those of containers, None while one is visited."""
    key = id(container)
    if key in known:
        count = known[key]
        if count is None:
            raise UnsafePickleError("a container in it holds itself")
        return count
    known[key] = None
    require_small(depth, 0)
    count = 1 + len(container)
    for value in container.values() if isinstance(container, Mapping) else container:
        if isinstance(value, list | dict | tuple | set | frozenset):
            count += _count_values(value, depth + 1, known)
    require_small(0, count)
    known[key] = count
    return count


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


def _skip_opcode(data: Buffer, position: int, code: bool) -> int:
    """Return the position after an opcode that `_plain_opcodes` does not match."""
    opcode, start = data[position], position + 1
    for size, codes in _LENGTHS.items():
        if opcode in codes:
            length = int.from_bytes(data[start : start + size], "little")
            if opcode == _LONG4 and length > MAX_INTEGER_BYTES:
                raise UnsafePickleError(f"it holds an integer of {length:,} bytes")
            return start + size + length
    if opcode in _CODE and code:
        if opcode not in _TWO_LINES:
            return start
        return _skip_line(data, _skip_line(data, start))
    if opcode in _CODE:
        name = _CODE[opcode]
        if opcode == ord("c"):
            lines = bytes(data[start : start + 200]).split(b"\n")[:2]
            name = printable(b".".join(lines).decode("utf-8", "replace"))
        raise UnsafePickleError(f"it needs {name}")
    if opcode in _EXTERNAL and not code:
        raise UnsafePickleError("it needs an object from outside the file")
    if opcode in _EXTERNAL:
        if opcode == ord("P"):
            return _skip_line(data, start)
        return start + _EXTERNAL_SIZES.get(opcode, 0)
    if opcode in b"pr":
        raise pickle.UnpicklingError("it numbers its memo beyond its own length")
    if opcode in _BARE + _LINES + b"".join(_FIXED.values()):
        raise pickle.UnpicklingError("it ends too early")
    raise pickle.UnpicklingError(f"there is no opcode {opcode:#04x}")


def _skip_line(data: Buffer, start: int) -> int:
    end = _LINE_END.search(data, start)
    if end is None:
        raise pickle.UnpicklingError("it ends too early")
    return end.end()
