"""A look at a pickle before it is read: is it plain data, and does it ask for what it has?

Python's unpickler believes what a file says: eight bytes can make it fill gigabytes with an empty
memo. This walk reads the opcodes (`pickletools` lists them) without building anything. Nearly all
of a file passes in one regular expression; what it stops at is looked at by itself.
"""

from __future__ import annotations

import pickle
import re

# Opcodes of plain data by what follows them: nothing, so many bytes, a line.
_ALONE = b"(012Nad}elst]u)\x85\x86\x87\x88\x89\x8f\x90\x91\x94"
_FIXED = {1: b"Khq\x80", 2: b"M", 4: b"Jj", 8: b"G\x95"}
_LINES = b"FILSVg"
# Opcodes with a length of 1, 4 or 8 bytes before their content.
_LENGTHS = {1: b"UC\x8a\x8c", 4: b"TXB\x8b", 8: b"\x8d\x8e\x96"}
_SHORT = 48
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
_OUTSIDE = b"PQ\x82\x83\x84\x97\x98"
_STOP = ord(".")


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
    run = _plain_run(len(data))
    place = 0
    while True:
        place = run.match(data, place).end()
        if place >= len(data):
            raise pickle.UnpicklingError("it ends too early")
        if data[place] == _STOP:
            return
        place = _after(data, place, code)


def _plain_run(length: int) -> re.Pattern[bytes]:
    """As many opcodes as possible that are complete, with memo numbers up to a length."""
    ways = [_any_of(_ALONE)]
    ways += [_any_of(codes) + b".{%d}" % size for size, codes in _FIXED.items()]
    ways.append(_any_of(_LINES) + rb"[^\n]*\n")
    short = b"|".join(re.escape(bytes([size])) + b"\\0{3}.{%d}" % size for size in range(_SHORT))
    ways.append(b"X(?:" + short + b")")
    ways.append(b"p(?:" + _decimal_up_to(length) + rb")\n")
    ways.append(b"r(?:" + _little_endian_up_to(length) + b")")
    return re.compile(b"(?:" + b"|".join(ways) + b")*+", re.DOTALL)


def _any_of(codes: bytes) -> bytes:
    return b"[" + b"".join(re.escape(bytes([code])) for code in codes) + b"]"


def _decimal_up_to(number: int) -> bytes:
    """A pattern of the decimal numbers from 0 to `number`, without zeros before them."""
    digits = str(number)
    ways = [rf"\d{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    for place, digit in enumerate(digits):
        if digit != "0":
            ways.append(rf"{digits[:place]}[0-{int(digit) - 1}]\d{{{len(digits) - place - 1}}}")
    return "|".join([digits, *ways]).encode()


def _little_endian_up_to(number: int) -> bytes:
    """A pattern of the four bytes of the numbers from 0 to `number`, least byte first."""
    value = min(number, 2**32 - 1).to_bytes(4, "little")
    ways = [re.escape(value)]
    for place, byte in enumerate(value):
        if byte:
            below = b"[\\0-" + re.escape(bytes([byte - 1])) + b"]"
            ways.append(b".{%d}" % place + below + re.escape(value[place + 1 :]))
    return b"|".join(ways)


def _after(data: bytes, place: int, code: bool) -> int:
    """Where the opcode after the one that no run has is."""
    found, start = data[place], place + 1
    for size, codes in _LENGTHS.items():
        if found in codes:
            return start + size + int.from_bytes(data[start : start + size], "little")
    if found in _CODE and code:
        if found not in _TWO_LINES:
            return start
        return _after_line(data, _after_line(data, start))
    if found in _CODE:
        asked = _CODE[found]
        if found == ord("c"):
            asked = b".".join(data[start : start + 200].split(b"\n")[:2]).decode("utf-8", "replace")
        raise CodeInPickle(f"it asks for {asked}")
    if found in _OUTSIDE:
        raise CodeInPickle("it asks for an object from outside the file")
    if found in b"pr":
        raise pickle.UnpicklingError("it numbers its memo beyond its own length")
    if found in _ALONE + _LINES + b"".join(_FIXED.values()):
        raise pickle.UnpicklingError("it ends too early")
    raise pickle.UnpicklingError(f"there is no opcode {found:#04x}")


def _after_line(data: bytes, start: int) -> int:
    found = data.find(b"\n", start)
    if found < 0:
        raise pickle.UnpicklingError("it ends too early")
    return found + 1
