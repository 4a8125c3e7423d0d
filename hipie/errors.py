"""Base classes of the errors that this package raises for unusable input.

The programs show the message of a `HipieError` as it is, with exit status 1, and report any other
exception as a bug; see `hipie.error_report`.
"""

from __future__ import annotations


class HipieError(Exception):
    """Error of a run; the message is one sentence naming the file, key, value or data set."""


class InputError(HipieError, ValueError):
    """Configuration, data, file or argument that cannot be used."""


class UsageError(InputError):
    """Command-line arguments that are missing or exclude each other; the exit status is 2."""


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
