"""Result files: how they are written and recognised, so that no file of the user is lost."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hipie import __version__
from hipie.atomic_file import open_replaced
from hipie.errors import InputError, UsageError, cause_of

SOFTWARE = f"hipie {__version__}"
# Bytes at the beginning of a file in which its program is named.
_START = 65536
_JSON_OF_HIPIE = re.compile(rb'"settings": \{\s*"program": "hipie')
_PNG_OF_HIPIE = b"tEXtSoftware\0hipie "
# Of drawings: a third of the time of zlib's default, 6, with files that are a tenth larger at most.
_PNG_COMPRESSION = 3
_JPEG_OF_HIPIE = re.compile(rb"\A\xff\xd8.*\xff\xfe\x00.hipie [0-9]", re.DOTALL)


def write_json(path: str | Path, content: Any) -> Path:
    """Write a JSON file in place of what has its name; see `replace_file`."""
    text = json.dumps(content, indent=1)
    return replace_file(path, lambda file: file.write(text.encode()))


def write_drawing(path: str | Path, drawing: Image.Image) -> Path:
    """Write an image in the format of its name, in place of what has the name.

    PNG files name this program in a text chunk, and JPEG files in their comment, by which
    `is_result_file` knows them.

    Raises:
        InputError: if there is no format for the name, or the file cannot be written.
    """
    path = Path(path)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format not in Image.SAVE:
        raise InputError(f"{path}: drawings are written as .png, .jpg and other image formats")
    options: dict[str, Any] = {}
    if image_format == "PNG":
        options |= {"pnginfo": PngInfo(), "compress_level": _PNG_COMPRESSION}
        options["pnginfo"].add_text("Software", SOFTWARE)
    elif image_format == "JPEG":
        options["comment"] = SOFTWARE
    return replace_file(path, lambda file: drawing.save(file, image_format, **options))


def replace_file(path: str | Path, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file in place of what has its name; see `replaced_file`.

    Args:
        path: of the file; its folder is created if needed.
        write: writes the content into the open file.

    Returns:
        The path.

    Raises:
        InputError: if the file cannot be written.
    """
    path = Path(path)
    try:
        with open_replaced(path) as file:
            write(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: it cannot be written ({cause_of(error)})") from error
    return path


def is_same_file(first: str | Path, second: str | Path) -> bool:
    """Whether two names are of one file, by links or otherwise; a file need not exist."""
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return os.path.realpath(first) == os.path.realpath(second)


def require_no_file_of_the_user(file: str | Path) -> None:
    """Check that a name is free, or that of a result.

    Raises:
        InputError: for a file that this package did not write, a link or a folder.
    """
    if os.path.isdir(file) and not os.path.islink(file):
        raise InputError(f"{file} is a folder; name a file")
    if os.path.lexists(file) and not is_result_file(file):
        raise InputError(
            f"{file} exists and is not a result of hipie; save under another name, or replace it "
            "with overwrite=True"
        )


def require_replaceable(
    file: str | Path, inputs: Iterable[tuple[str, str]], overwrite: bool
) -> None:
    """Check that a result of a command may be written under a name.

    Args:
        file: the result.
        inputs: files that are read, each with what it is ("image").
        overwrite: files that are neither inputs nor results may be replaced.

    Raises:
        UsageError: if it is an input, also by a link; a folder; or a file that no command of this
            package wrote, without `overwrite`. A link is no result.
    """
    if not os.path.lexists(file):
        return
    for name, kind in inputs:
        if is_same_file(file, name):
            raise UsageError(
                f"the result {file} would overwrite the {kind} {name}; name another --output"
            )
    if os.path.isdir(file) and not os.path.islink(file):
        raise UsageError(f"{file} is a folder, and would be the name of a result")
    if not overwrite and not is_result_file(file):
        raise UsageError(
            f"{file} exists and is not a result of hipie; name another --output, or replace it "
            "with --overwrite"
        )


def is_result_file(path: str | Path) -> bool:
    """Whether a file, and not a link to one, was written by a command of this package."""
    if os.path.islink(path) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError:
        return False
    return (
        _PNG_OF_HIPIE in start[:512]
        or bool(_JPEG_OF_HIPIE.match(start[:1024]))
        or bool(_JSON_OF_HIPIE.search(start))
    )
