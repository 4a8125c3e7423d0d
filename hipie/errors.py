"""Base classes of the errors that this package raises for unusable input.

The programs show the message of a `HipieError` as it is, with exit status 1, and report any other
exception as a bug; see `hipie.error_report`.
"""

from __future__ import annotations

import errno
import re
from typing import Self

# Reasons of the operating system, by error number.
SYSTEM_REASONS = {
    errno.ENOENT: "there is no such file or folder",
    errno.EACCES: "this user may not read or write it",
    errno.EPERM: "this user may not read or write it",
    errno.EROFS: "it is on a file system that cannot be written",
    errno.EISDIR: "this is a folder, and a file is needed",
    errno.ENOTDIR: "a part of this path is a file instead of a folder",
    errno.EEXIST: "it exists already",
    errno.ENOTEMPTY: "this folder is not empty",
    errno.ENOSPC: "there is no space left on its disk",
    errno.EDQUOT: "the disk quota of this user is used up",
    errno.EFBIG: "it is larger than this file system or user may write",
    errno.EIO: "its disk or file system reports an input or output error",
    errno.ESTALE: "its network file system is not available any more",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "it is a symbolic link to itself",
    errno.EBUSY: "it is in use",
    errno.ETXTBSY: "it is in use",
    errno.EMFILE: "too many files are open; raise the limit with ulimit -n",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "the memory of this machine is not sufficient",
    errno.ETIMEDOUT: "the network did not answer in time",
    errno.ECONNREFUSED: "the connection was refused",
    errno.ECONNRESET: "the connection was closed by the other side",
    errno.EHOSTUNREACH: "the network cannot be reached",
    errno.ENETUNREACH: "the network cannot be reached",
    errno.EADDRINUSE: "the network address is in use",
}


# Characters of an argument, of a name from a file, and of a whole message that are shown.
MAX_SHOWN = 60
MAX_NAME = 120
MAX_MESSAGE = 4000
# Such words of a message are cut to MAX_NAME characters.
_LONG_WORD = re.compile(r"\S{1001,}")
# With it begins what `torch` adds to the message of an error in another process.
_TRACEBACK = "Traceback (most recent call last)"


def printable(text: object, limit: int = MAX_NAME) -> str:
    r"""Return text from a file for a message or a log: one line that changes no terminal.

    Escape sequences, line breaks, marks that change the direction of writing, lone surrogates and
    other characters that Unicode does not count as printable are written as `\x1b`, `\u202e`.

    Args:
        text: a name, path, key, expression, ...; other objects are converted by `str`.
        limit: characters of the text and of the result, before an ellipsis.
    """
    whole = text if isinstance(text, str) else str(text)
    shown = whole[:limit]
    if not shown.isprintable():
        shown = "".join(map(_escape, shown))
    if len(whole) <= limit and len(shown) <= limit:
        return shown
    return f"{shown[:limit]}..."


def printable_message(text: str) -> str:
    """Return a whole message like `printable`; spaces replace its line breaks.

    Words of more than 1,000 characters are cut, such as an identifier that an annotation file has.
    The end of a message that is too long is kept, as it says what to do. Messages with a traceback
    of another process keep their lines.
    """
    if _TRACEBACK in text:
        return printable_lines(text)
    if len(text) > MAX_NAME:
        text = _LONG_WORD.sub(lambda word: f"{word[0][:MAX_NAME]}...", text)
    if len(text) > MAX_MESSAGE:
        end = MAX_MESSAGE // 4
        text = f"{text[: MAX_MESSAGE - end]} ... {text[-end:]}"
    text = text if text.isprintable() else " ".join(text.split())
    return printable(text, limit=10 * MAX_MESSAGE)


def printable_lines(text: str) -> str:
    """Return a text of several lines, such as a table, like `printable` line by line, uncut."""
    return "\n".join(printable(line, limit=max(1, 10 * len(line))) for line in text.split("\n"))


def _escape(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")


class HipieError(Exception):
    """Error of a run; the message is one sentence naming the file, key, value or data set.

    Attributes:
        command_line: the message with the flags of the command line in place of Python's arguments,
            where advice differs; programs print it instead.
    """

    command_line: str = ""

    def __init__(self, *args: object) -> None:
        # Whatever a message quotes, no character of it reaches a terminal raw.
        super().__init__(*(printable_message(arg) if type(arg) is str else arg for arg in args))

    def on_command_line(self, message: str) -> Self:
        """Set what programs print, and return the error."""
        self.command_line = printable_message(message)
        return self


class InputError(HipieError, ValueError):
    """Configuration, data, file or argument that cannot be used."""


class UsageError(InputError):
    """Command-line arguments that are missing or exclude each other; the exit status is 2."""


class TooLargeError(InputError):
    """Input that is larger than a limit, such as `INPUT.MAX_PIXELS`."""


class MissingFileError(InputError, FileNotFoundError):
    """File or folder that does not exist."""


class MissingPackageError(InputError, ModuleNotFoundError):
    """Package that is not installed; the message has the command that installs it."""


class UnsupportedError(InputError, NotImplementedError):
    """Request that an architecture or a data set does not support."""


class MachineError(HipieError, OSError):
    """File or connection that fails for a reason outside of the program, such as a full disk."""


class OutOfMemoryError(HipieError, MemoryError):
    """Memory that is not sufficient."""


class UnexpectedError(HipieError, RuntimeError):
    """Bug of this package or of one that it uses; the message names the log with its traceback."""


def describe(value: object) -> str:
    """Describe an argument of a wrong type in one line: its beginning and its type."""
    shown = printable(" ".join(repr(value).split()), MAX_SHOWN)
    return f"{shown} of type {type(value).__name__}"


def cause_of(error: BaseException) -> str:
    """Describe the cause of an error that another library raised, as the end of a message.

    Returns:
        The message of an error of this package; what the operating system reports; the place in a
        text that cannot be read; otherwise the type, as the log has the rest.
    """
    if isinstance(error, HipieError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in SYSTEM_REASONS:
        return SYSTEM_REASONS[error.errno]
    if isinstance(error, UnicodeError) and hasattr(error, "start"):
        return f"it is not {getattr(error, 'encoding', 'valid')} text at position {error.start}"
    mark = getattr(error, "problem_mark", None)
    line = getattr(error, "lineno", None) if mark is None else mark.line + 1
    if line is not None:
        column = getattr(error, "colno", None) if mark is None else mark.column + 1
        return f"line {line}" + (f", column {column}" if column else "")
    return type(error).__name__
