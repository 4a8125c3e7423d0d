"""Files of class names: one a line, the line's number from 0 is the class's value in label maps."""

from __future__ import annotations

import os
from pathlib import Path

from hipie.data.io.regular_file import read_file
from hipie.data.io.validation import DatasetError
from hipie.errors import cause_of
from hipie.vocabularies.vocabulary import name_key


def read_class_names(path: str | os.PathLike[str]) -> list[str]:
    """Read a file of class names; empty lines at its end are left out.

    Raises:
        FileNotFoundError: if there is no such file.
        DatasetError: naming the file and the line, if it is no text, has no name, an empty line
            between names, or a name twice.
    """
    path = Path(path)
    data = read_file(path, "file of class names")
    try:
        text = data.decode("utf-8-sig")
    except ValueError as error:
        raise DatasetError(f"{path}: the class names cannot be read: {cause_of(error)}") from error
    names = [line.strip() for line in text.rstrip().split("\n")]
    if names == [""]:
        raise DatasetError(f"{path}: there is no class name in it")
    lines: dict[str, int] = {}
    for number, name in enumerate(names):
        if not name:
            raise DatasetError(
                f"{path}: line {number + 1} is empty; every line names the class of a value, and "
                f"this one that of {number}"
            )
        first = lines.setdefault(name_key(name), number)
        if first != number:
            raise DatasetError(
                f'{path}: "{name}" is in line {first + 1} and in line {number + 1}; a class has '
                "one value"
            )
    return names
