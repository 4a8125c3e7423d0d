"""Fields of annotation files as people write them, read by the same rules in every reader.

An optional field may be absent in several ways: the key is missing, or its value is null, NaN, an
empty text, list or dictionary, a text such as "null", or a list of such values. Whole numbers may
be floats or texts (pandas and spreadsheets write them), ids that differ only in that are the same.
Anything else that does not fit is an error that names the file, the entry, the field and the value;
`EntryFaults` collects those of a whole file.
"""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from hipie.data.io.reading_rules import reading_rules
from hipie.data.io.validation import (
    INTEGER_LIMIT,
    DatasetError,
    check_image_size,
    shorten,
)

MAX_LISTED = 10
"""Wrong entries of a file that an error lists; the others are counted."""
ABSENT_TEXTS = frozenset(["", "nan", "none", "null"])
MAX_PLACEHOLDER_DEPTH = 3
FLAG_TEXTS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
WHOLE_TEXT = re.compile(r"[+-]?[0-9]{1,20}(\.0{0,20})?")
ID_TEXT = re.compile(r"(0|-?[1-9][0-9]{0,19})(\.0{1,20})?")


@dataclass(frozen=True)
class FieldKind:
    """Kind of a field.

    Attributes:
        name: noun phrase for error messages.
        parse: returns the value in its standard form; None if it is not of this kind.
    """

    name: str
    parse: Callable[[Any], Any]


class EntryFaults:
    """Wrong entries of an annotation file, reported together at its end.

    Attributes:
        refused_images: ids of images that are wrong themselves; their annotations are not reported.
        unreadable_ids: whether an image has no valid id, so that unknown ids may be its.
        unreadable_categories: likewise of a category.

    Args:
        path: the file or folder, with which the messages begin.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        self.refused_images: set[int | str] = set()
        self.unreadable_ids = False
        self.unreadable_categories = False
        self._listed: list[str] = []
        self._messages: set[int] = set()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, error: DatasetError) -> None:
        """Add an error; the same one is counted once."""
        message = str(error)
        key = hash(message)
        if key in self._messages:
            return
        self._messages.add(key)
        if len(self._listed) < MAX_LISTED:
            self._listed.append(message)

    def refuse_image(self, error: DatasetError, entry: Any) -> None:
        """Add an error of an entry of `images`, whose annotations are then not reported."""
        self.add(error)
        image_id = identifier(entry.get("id")) if isinstance(entry, dict) else None
        if image_id is None:
            self.unreadable_ids = True
        else:
            self.refused_images.add(image_id)

    def raise_if_any(self) -> None:
        """Raise one error about all entries, the first ten of which it lists.

        Raises:
            DatasetError: if there is an error.
        """
        if len(self) == 1:
            raise DatasetError(self._listed[0])
        if self._listed:
            raise DatasetError(f"{self.path}: {len(self)} entries are wrong: {self.summary()}")

    def summary(self) -> str:
        """Return the listed messages without the file, and the number of the others."""
        listed = [message.removeprefix(f"{self.path}: ") for message in self._listed]
        more = len(self) - len(listed)
        return "; ".join([*listed, f"and {more} more"] if more else listed)


def is_absent(value: Any, depth: int = MAX_PLACEHOLDER_DEPTH) -> bool:
    """Return whether a value is one of the placeholders by which people leave a field out.

    Args:
        value: parsed value of any type.
        depth: how deep lists and dictionaries of placeholders may be nested.
    """
    if value is None:
        return True
    if type(value) is int:
        return False
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, str):
        return len(value) < 10 and value.strip().lower() in ABSENT_TEXTS
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple) or (value and depth == 0):
        return False
    return all(is_absent(element, depth - 1) for element in value)


def whole_number(value: Any) -> int | None:
    """Return an integer of 64 bits that is written as an integer, a float or a text; else None."""
    if type(value) is int:
        number: int | None = value
    elif isinstance(value, str):
        text = value.strip()
        number = int(text.partition(".")[0]) if WHOLE_TEXT.fullmatch(text) else None
    elif isinstance(value, numbers.Integral) and not _is_boolean(value):
        number = int(value)
    elif not _is_boolean(value) and isinstance(value, numbers.Real) and float(value).is_integer():
        number = int(float(value))
    else:
        number = None
    return number if number is not None and -INTEGER_LIMIT <= number < INTEGER_LIMIT else None


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def identifier(value: Any) -> int | str | None:
    """Return an id: an integer, also for "1" and 1.0, or a text that is none; else None.

    Texts with leading zeros ("000139", a file's stem) remain texts.
    """
    if isinstance(value, str):
        text = value.strip()
        if text.lower() in ABSENT_TEXTS:
            return None
        number = whole_number(text) if ID_TEXT.fullmatch(text) else None
        return text if number is None else number
    return whole_number(value)


def finite_number(value: Any) -> float | None:
    """Return a finite number that is written as a number or a text; else None."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if _is_boolean(value) or not isinstance(value, numbers.Real):
        return None
    try:
        finite = math.isfinite(value)
    except OverflowError:  # An integer beyond a float's range.
        return None
    return value if finite else None  # type: ignore[return-value]


def _flag(value: Any) -> int | None:
    if isinstance(value, str):
        return FLAG_TEXTS.get(value.strip().lower())
    # Compared as it is: integers beyond a float's range are neither.
    if isinstance(value, numbers.Real) and value in (0, 1):
        return int(value == 1)
    return None


def _whole_numbers(value: Any) -> list[int] | None:
    if not isinstance(value, list | tuple):
        return None
    parsed = [whole_number(element) for element in value]
    return None if None in parsed else parsed  # type: ignore[return-value]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


WHOLE_NUMBER = FieldKind("an integer", whole_number)
WHOLE_NUMBERS = FieldKind("a list of integers", _whole_numbers)
WHOLE_NUMBER_OR_LIST = FieldKind(
    "an integer or a list of integers",
    lambda value: _whole_numbers(value) if isinstance(value, list) else whole_number(value),
)
IDENTIFIER = FieldKind("an integer or a string", identifier)
FLAG = FieldKind("0 or 1", _flag)
BOOLEAN = FieldKind("true or false", _flag)
TEXT = FieldKind("a non-empty string", _text)
ENTRIES = FieldKind("a list", lambda value: value if isinstance(value, list) else None)


def require_inside(where: str, key: str, name: str) -> None:
    """Check that a file's name in an annotation file stays in the folder that it is relative to.

    Links in that folder are the user's and may lead anywhere.

    Args:
        where: the file and the entry, for the error message.
        key: the field.
        name: a path with slashes or backslashes.

    Raises:
        DatasetError: if it is absolute or has `..`, unless `ReadingRules.outside_files` allows it;
            if it is no name of a file.
    """
    if "\0" in name:
        raise DatasetError(f'{where}: its "{key}" is not a file name: {shorten(name)}')
    if reading_rules().outside_files:
        return
    path = PureWindowsPath(name)  # Slashes and backslashes separate.
    if path.drive or path.root or ".." in path.parts:
        raise DatasetError(
            f'{where}: its "{key}" {shorten(name)} leaves the folder that it is relative to; set '
            "DATASETS.ALLOW_OUTSIDE_FILES True if you trust the file"
        )


def require_entry(where: str, entry: Any) -> dict[str, Any]:
    """Return an entry that is a dictionary.

    Raises:
        DatasetError: naming the entry and its value.
    """
    if not isinstance(entry, dict):
        raise DatasetError(f"{where} must be a dictionary, not {shorten(entry)}")
    return entry


def read_field(where: str, entry: dict[str, Any], key: str, kind: FieldKind) -> Any:
    """Return the value of a field in its standard form.

    Args:
        where: the file and the entry, for the error message: "refs(unc).p: entry 3".
        entry: the entry.
        key: the field.
        kind: its kind.

    Raises:
        DatasetError: naming the file, the entry, the field and its value.
    """
    if key not in entry:
        raise DatasetError(f'{where} has no "{key}"')
    value = kind.parse(entry[key])
    if value is None:
        raise DatasetError(f'{where}: "{key}" must be {kind.name}, not {shorten(entry[key])}')
    return value


def read_optional(
    where: str, entry: dict[str, Any], key: str, kind: FieldKind, default: Any = None
) -> Any:
    """Return the value of a field in its standard form, or a default where it is absent.

    Raises:
        DatasetError: as for `read_field`.
    """
    value = entry.get(key)
    return default if is_absent(value) else read_field(where, entry, key, kind)


def images_by_id(
    path: str | os.PathLike[str], content: dict[str, Any], faults: EntryFaults | None = None
) -> dict[int | str, dict[str, Any]]:
    """Read the `images` of a COCO file and index them by id.

    Args:
        path: the file, for error messages.
        content: its content, with the list `images`.
        faults: collects the errors; None = they are raised.

    Returns:
        id -> entry of `images` with `id`, `file_name`, `height` and `width` in standard form,
        sorted by id, numbers first.

    Raises:
        DatasetError: if images lack a field or have an invalid value, or two share an id.
    """
    collected = EntryFaults(path) if faults is None else faults
    images: dict[int | str, dict[str, Any]] = {}
    for position, entry in enumerate(content["images"]):
        try:
            image = _image(path, position, entry)
        except DatasetError as error:
            collected.refuse_image(error, entry)
            continue
        if image["id"] in images:
            collected.add(DatasetError(f"{path}: two images have the id {image['id']}"))
            continue
        images[image["id"]] = image
    if faults is None:
        collected.raise_if_any()
    return {key: images[key] for key in sorted(images, key=lambda key: (isinstance(key, str), key))}


def require_image(
    where: str, images: dict[int | str, dict[str, Any]], image_id: Any, faults: EntryFaults
) -> dict[str, Any] | None:
    """Return the image of an annotation; None if its own entry is wrong, which is known already.

    Raises:
        DatasetError: if the file does not list the image.
    """
    image = images.get(image_id)
    if image is None and image_id not in faults.refused_images and not faults.unreadable_ids:
        raise DatasetError(f"{where} is of image {image_id}, which the file does not list")
    return image


def _image(path: str | os.PathLike[str], position: int, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise DatasetError(f"{path}: image {position} of the list is not a dictionary")
    where = f"{path}: image {shorten(entry.get('id', entry))}"
    for key in ("id", "file_name", "height", "width"):
        if key not in entry:
            raise DatasetError(f'{where} has no "{key}"')
    image_id = identifier(entry["id"])
    if image_id is None:
        raise DatasetError(
            f'{where}: its "id" must be an integer or a string, not {shorten(entry["id"])}'
        )
    if _text(entry["file_name"]) is None or is_absent(entry["file_name"]):
        raise DatasetError(
            f'{where}: its "file_name" must be a non-empty string, not '
            f"{shorten(entry['file_name'])}"
        )
    require_inside(where, "file_name", entry["file_name"])
    size = {key: whole_number(entry[key]) for key in ("height", "width")}
    stated = {key: entry[key] if side is None else side for key, side in size.items()}
    check_image_size(where, stated["height"], stated["width"])
    return {**entry, "id": image_id, **size}
