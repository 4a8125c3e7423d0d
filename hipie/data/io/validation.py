"""Checks of annotation files: the types of their fields, image sizes, unique ids."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hipie.errors import InputError

INTEGER_LIMIT = 2**63
"""Integers of files fit into 64 bits: -INTEGER_LIMIT <= value < INTEGER_LIMIT."""
MAX_PIXELS = 178_956_970
"""Largest number of pixels that Pillow opens without an error."""
MAX_SIDE = 65_535
"""Longest side of an image, pixels; no supported format allows more."""


class DatasetError(InputError):
    """An annotation file that cannot be used; the message names the file and the entry."""


@dataclass(frozen=True)
class FieldType:
    """Type of a field.

    Attributes:
        name: noun phrase for error messages.
        test: returns whether a value is of this type.
    """

    name: str
    test: Callable[[Any], bool]


def _is_integer(value: Any) -> bool:
    return type(value) is int and -INTEGER_LIMIT <= value < INTEGER_LIMIT


def _is_integer_list(value: Any) -> bool:
    return isinstance(value, list) and all(_is_integer(element) for element in value)


def _is_number_list(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(element) is float or _is_integer(element) for element in value
    )


def _is_non_empty_string(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_non_empty_string_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_non_empty_string, value))


def _is_xywh_box(value: Any) -> bool:
    if not _is_number_list(value) or len(value) != 4:
        return False
    return all(map(math.isfinite, value)) and value[2] >= 0 and value[3] >= 0


INTEGER = FieldType("an integer", _is_integer)
INTEGER_OR_STRING = FieldType(
    "an integer or a string", lambda value: _is_integer(value) or isinstance(value, str)
)
INTEGER_LIST = FieldType("a list of integers", _is_integer_list)
INTEGER_OR_LIST = FieldType(
    "an integer or a list of integers",
    lambda value: _is_integer(value) or _is_integer_list(value),
)
NUMBER_LIST = FieldType("a list of numbers", _is_number_list)
STRING = FieldType("a string", lambda value: isinstance(value, str))
NON_EMPTY_STRING = FieldType("a non-empty string", _is_non_empty_string)
NON_EMPTY_STRINGS = FieldType("a non-empty list of non-empty strings", _is_non_empty_string_list)
LIST = FieldType("a list", lambda value: isinstance(value, list))
FLAG = FieldType("0 or 1", lambda value: isinstance(value, int) and value in (0, 1))
BOOLEAN = FieldType("true or false", lambda value: isinstance(value, bool) or value in (0, 1))
XYWH_BOX = FieldType(
    "a box [x, y, width, height] of finite numbers, width and height >= 0", _is_xywh_box
)


def check_entry(where: str, entry: Any, fields: Mapping[str, FieldType]) -> None:
    """Check that an entry is a dictionary with all of these fields.

    Args:
        where: the file and the entry, for the error message: "refs(unc).p: entry 3".
        entry: the parsed entry, of any type.
        fields: key -> required type.

    Raises:
        DatasetError: naming the file, the entry and the key.
    """
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be a dictionary, not {shorten(entry)}")
    for key, field in fields.items():
        if key not in entry:
            raise DatasetError(f'{where} has no "{key}"')
        if not field.test(entry[key]):
            raise DatasetError(f'{where}: "{key}" must be {field.name}, not {shorten(entry[key])}')


def check_optional(where: str, entry: dict[str, Any], fields: Mapping[str, FieldType]) -> None:
    """Check the types of those fields that an entry has.

    Args:
        where: as for `check_entry`.
        entry: as for `check_entry`.
        fields: as for `check_entry`.

    Raises:
        DatasetError: naming the file, the entry and the key.
    """
    check_entry(where, entry, {key: field for key, field in fields.items() if key in entry})


def check_image_size(where: str, height: Any, width: Any) -> None:
    """Check that height and width, in pixels, are possible for an image.

    Raises:
        DatasetError: naming the key.
    """
    for key, side in (("height", height), ("width", width)):
        if type(side) is not int or not 0 < side <= MAX_SIDE:
            raise DatasetError(
                f'{where}: its "{key}" must be an integer from 1 to {MAX_SIDE}, not {shorten(side)}'
            )
    if height * width > MAX_PIXELS:
        raise DatasetError(
            f'{where}: its "height" and "width" make {height * width} pixels; at most '
            f"{MAX_PIXELS} are supported"
        )


def shorten(value: Any) -> str:
    """Return the representation of a value for an error message, shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print numbers of more than 4,300 digits.
        return "a very long number"
