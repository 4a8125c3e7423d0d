"""Checks of the entries of annotation files: their keys, and what kind of value each has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hipie.data.io.json_file import DatasetError, shown

MOST = 2**63
"""Whole numbers of files fit in 64 bits."""


@dataclass(frozen=True)
class Kind:
    """A kind of value: how an expression calls it, and the test for it."""

    name: str
    test: Callable[[Any], bool]


WHOLE = Kind("a whole number", lambda value: _is_whole(value))
NUMBER_OR_TEXT = Kind(
    "a whole number or a text", lambda value: _is_whole(value) or isinstance(value, str)
)
NUMBERS = Kind("a list of numbers", lambda value: _all_numbers(value))
TEXT = Kind("a text", lambda value: isinstance(value, str))
WORDS = Kind(
    "a text of at least one word", lambda value: isinstance(value, str) and bool(value.strip())
)
LIST = Kind("a list", lambda value: isinstance(value, list))
WHOLES = Kind("a list of whole numbers", lambda value: _all_whole(value))
ONE_OR_WHOLES = Kind(
    "a whole number or a list of them", lambda value: _is_whole(value) or _all_whole(value)
)
EXPRESSIONS = Kind(
    "a list of texts of at least one word each",
    lambda value: isinstance(value, list) and bool(value) and all(map(WORDS.test, value)),
)
FLAG = Kind("0 or 1", lambda value: isinstance(value, int) and value in (0, 1))
BOX = Kind("a box of four finite numbers, none of its sides negative", lambda value: _is_box(value))


def check_entry(where: str, entry: Any, kinds: Mapping[str, Kind]) -> None:
    """Check that an entry has all keys, with values of the right kinds.

    Args:
        where: the file and the entry, for the error: "refs(unc).p: entry 3".
        entry: what the file holds; anything.
        kinds: key -> kind.

    Raises:
        DatasetError: naming the file, the entry and the key.
    """
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be a dictionary, not {shown(entry)}")
    for key, kind in kinds.items():
        if key not in entry:
            raise DatasetError(f'{where} has no "{key}"')
        if not kind.test(entry[key]):
            raise DatasetError(f'{where}: "{key}" must be {kind.name}, not {shown(entry[key])}')


def check_optional(where: str, entry: dict[str, Any], kinds: Mapping[str, Kind]) -> None:
    """As `check_entry`, for keys that may be missing."""
    check_entry(where, entry, {key: kind for key, kind in kinds.items() if key in entry})


def _is_whole(value: Any) -> bool:
    return type(value) is int and -MOST <= value < MOST


def _all_whole(value: Any) -> bool:
    return isinstance(value, list) and all(_is_whole(one) for one in value)


def _all_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is float or _is_whole(one) for one in value)


def _is_box(value: Any) -> bool:
    if not _all_numbers(value) or len(value) != 4:
        return False
    return all(map(math.isfinite, value)) and value[2] >= 0 and value[3] >= 0
