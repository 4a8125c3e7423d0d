"""How programs end after an error: one sentence on the standard error, and a known exit status.

A `HipieError` is shown as it is. So are failures of the machine that any library may report: files
that cannot be read or written, memory that does not suffice, packages that are missing; they get
sentences of this package. Everything else is a bug: the sentence names its type and the log file,
which alone has the traceback.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import tempfile
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, TextIO

import hipie
from hipie.errors import (
    SYSTEM_REASONS,
    HipieError,
    MachineError,
    MissingFileError,
    MissingPackageError,
    OutOfMemoryError,
    UnexpectedError,
    UsageError,
    printable_message,
)
from hipie.logs import PrintableFilter, get_logger
from hipie.projects import load_projects

logger = get_logger("hipie")

# Exit statuses: after an error; for arguments that cannot be used; after Ctrl-C.
FAILURE, WRONG_USAGE, INTERRUPTED = 1, 2, 130
# Log messages of a command that are kept for the log of an unexpected error.
KEPT_MESSAGES = 10_000

_ALLOCATION_FAILURES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "Unable to allocate",
)
_MEMORY = (
    "the memory is not sufficient: use smaller images (INPUT.MIN_SIZE_TEST, INPUT.MIN_SIZE_TRAIN), "
    "fewer images at once (SOLVER.IMS_PER_BATCH) or a smaller model"
)
# Messages of fvcore's registries and of Detectron2's catalog of data sets.
_NO_OBJECT = re.compile(r"No object named '(.+)' found in '(.+)' registry")
_NO_DATASET = re.compile(r"Dataset '(.+)' is not registered! Available datasets are: (.*)")
_NO_METADATA = re.compile(r"Attribute '(.+)' does not exist in the metadata of dataset '(.+?)'")
_REGISTRY_KEYS = {
    "META_ARCH": "MODEL.META_ARCHITECTURE",
    "BACKBONE": "MODEL.BACKBONE.NAME",
    "TEXT_ENCODER": "MODEL.HIPIE.TEXT.ENCODER",
}
_CLASS_NAME = re.compile(r"^([A-Za-z_][\w.]*)(Error|Exception|Pickle): ")


def known_message(error: BaseException) -> str | None:
    """Return the sentence about an error that is not a bug; None for any other exception."""
    if isinstance(error, HipieError):
        return one_line_message(error)
    if type(error).__name__ == "ProcessRaisedException":
        return _message_of_process(str(error))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return _MEMORY
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _ALLOCATION_FAILURES):
        return _MEMORY
    if isinstance(error, ImportError):
        return _missing_package(error)
    if isinstance(error, OSError):
        return _system_message(error)
    if isinstance(error, KeyError | AttributeError):
        return _unregistered_name(str(error.args[0]) if error.args else "")
    return None


def one_line_message(error: BaseException) -> str:
    """Return an error's message in one line, in the command line's words where it has some.

    Of an error from a worker process it is the cause's message.
    """
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, HipieError) and error.command_line:
        message = error.command_line
    if "Traceback (most recent call last)" in message:
        message = _cause_of_traceback(message)
    return printable_message(message) or type(error).__name__


def error_message(program: str, error: BaseException) -> str:
    """Return the sentence with which a program ends; the traceback of a bug is written to a log.

    Args:
        program: its name, such as "hipie segment".
        error: the exception.
    """
    message = known_message(error)
    if message is not None:
        logger.debug("Traceback of the error:", exc_info=error)
        return f"{program}: {message}"
    return f"{program}: {bug_message(error)}"


def bug_message(error: BaseException) -> str:
    """Write the traceback of a bug to a log file, and return the sentence that names it."""
    kind = type(error).__name__
    log = write_traceback(error)
    report = f"please report it with {log}" if log else "please report it; no log could be written"
    return f"this is a bug of the program ({kind}); {report}"


def write_traceback(error: BaseException) -> str:
    """Write an error's traceback to the log file of this process.

    Returns:
        The file: log.txt of `OUTPUT_DIR` (log.txt.rank1 and so on in other processes), or a file in
        the folder for temporary files if the run has no log file yet, with the last log messages;
        "" if nothing can be written.
    """
    text = "".join(traceback.format_exception(error))
    file_name = log_file()
    if file_name:
        logger.debug("Traceback of the error:\n%s", text)
        return file_name
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="hipie-",
            suffix="-log.txt",
            delete=False,
            encoding="utf-8",
            errors="replace",
        ) as file:
            file.writelines(f"{line}\n" for line in _Messages.kept())
            file.write(text)
        return file.name
    except Exception:  # noqa: BLE001 - the disk may be full, or the reason of the first error
        return ""


def log_file() -> str:
    """Return the log file of the run in this process: log.txt of `OUTPUT_DIR`; "" without one."""
    for handler in logger.handlers:
        name = str(getattr(getattr(handler, "stream", None), "name", ""))
        if os.path.basename(name).startswith("log.txt"):
            return name
    return ""


def log_to(handler: logging.StreamHandler[Any]) -> None:
    """Send what other packages log, from now on and since the program started, to a log file.

    Packages with handlers of their own lose them, so that their messages are in the file alone.

    Args:
        handler: writes to the file.
    """
    if hasattr(handler.stream, "reconfigure"):
        handler.stream.reconfigure(errors="backslashreplace")
    handler.addFilter(PrintableFilter())
    for line in _Messages.kept():
        handler.stream.write(f"{line}\n")
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(min(root.level, logging.INFO))
    for name, other in root.manager.loggerDict.items():
        own = name.partition(".")[0] in {*own_packages(), "detectron2", "fvcore"}
        if isinstance(other, logging.Logger) and not own:
            screens = [
                one
                for one in other.handlers
                if isinstance(one, logging.StreamHandler)
                and not isinstance(one, logging.FileHandler)
            ]
            for screen in screens:
                other.removeHandler(screen)
                other.propagate = True


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """End a program with one sentence and a known exit status, whatever is raised.

    In the outermost of nested uses the log messages of other packages and Python's warnings are
    kept off the screen, see `quiet`.

    Args:
        program: name of the program, for the sentence.

    Raises:
        SystemExit: with the sentence, which Python prints with status 1; with status 2, after
            printing it, for a `UsageError`; with 130 after Ctrl-C.
    """
    with quiet():
        try:
            yield
        except UsageError as error:
            _print_error(f"{program}: {one_line_message(error)}")
            sys.exit(WRONG_USAGE)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader of the output has ended; Python's last flush must not fail again.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FAILURE)
        except Exception as error:  # noqa: BLE001 - every error ends in one sentence
            sys.exit(printable_message(error_message(program, error)))


def run_program(program: str, main: Callable[[], int]) -> int:
    """Call `main` under `one_line_errors`, with an output that can be printed in any locale."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with one_line_errors(program):
        return main()


@contextmanager
def as_hipie_errors() -> Iterator[None]:
    """Raise a `HipieError` with one sentence instead of any other exception.

    For the Python interface: errors of this package pass, failures of the machine get this
    package's sentence, and for a bug the traceback is in the log file that the message names.

    Raises:
        HipieError: instead of any exception that is not derived from it.
    """
    try:
        yield
    except HipieError:
        raise
    except Exception as error:  # noqa: BLE001 - every error becomes one sentence
        message = known_message(error)
        if message is None:
            raise UnexpectedError(bug_message(error)) from None
        raise _machine_error(error, message) from None


class _Messages(logging.Handler):
    """Log handler that keeps the last messages of a program in memory."""

    active: ClassVar[list[_Messages]] = []

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.addFilter(PrintableFilter())
        self.setFormatter(logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s"))
        self.lines: deque[str] = deque(maxlen=KEPT_MESSAGES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        with suppress(Exception):
            self.lines.append(self.format(record))

    @classmethod
    def kept(cls) -> list[str]:
        """Messages since the program started."""
        return [line for handler in cls.active for line in handler.lines]


@contextmanager
def quiet(*, warn: bool = True) -> Iterator[None]:
    """Keep messages and warnings of other packages, and tracebacks, off the screen.

    They are kept in memory for `write_traceback`. Warnings of this package and of its projects are
    printed on the standard error. Everything is restored at the end; a nested use does nothing.

    Args:
        warn: print these warnings; False in a process whose warnings another one prints, too.
    """
    if _Messages.active:
        yield
        return
    root, handler = logging.getLogger(), _Messages()
    before_level, before_handlers = root.level, list(root.handlers)
    before = (
        logging.raiseExceptions,
        warnings.showwarning,
        sys.unraisablehook,
        threading.excepthook,
    )
    _Messages.active.append(handler)
    root.addHandler(handler)
    if warn:
        root.addHandler(_OwnWarnings())
    logging.raiseExceptions = False
    warnings.showwarning = _log_warning
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_error
    try:
        yield
    finally:
        (
            logging.raiseExceptions,
            warnings.showwarning,
            sys.unraisablehook,
            threading.excepthook,
        ) = before
        root.handlers[:] = before_handlers
        root.setLevel(before_level)
        _Messages.active.remove(handler)


class _OwnWarnings(logging.Handler):
    """Log handler that prints warnings of this package and of its projects."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.addFilter(PrintableFilter())

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message on the standard error, unless another package logged it."""
        if record.name.partition(".")[0] in own_packages():
            with suppress(Exception):
                _print_error(record.getMessage())


def own_packages() -> set[str]:
    """Names of this package and of the projects, if they are loaded."""
    loaded = load_projects.cache_info().currsize
    return {"hipie", *(load_projects().add_config if loaded else ())}


def _print_error(message: str) -> None:
    with suppress(OSError, ValueError):
        print(printable_message(message), file=sys.stderr, flush=True)


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    logging.getLogger("py.warnings").warning(
        "%s:%s: %s: %s", filename, lineno, category.__name__, message
    )


def _log_unraisable(unraisable: Any) -> None:
    logger.debug(
        "error that Python ignored (%s)",
        unraisable.err_msg or unraisable.object,
        exc_info=unraisable.exc_value,
    )


def _log_thread_error(arguments: Any) -> None:
    logger.debug("error in a thread", exc_info=arguments.exc_value)


def _cause_of_traceback(message: str) -> str:
    """Return the message of the last exception in a text with tracebacks."""
    lines = message.rstrip().splitlines()
    last = max(
        (i for i, line in enumerate(lines) if line.startswith(("  ", "Traceback (most"))),
        default=-1,
    )
    text = "\n".join(lines[last + 1 :]).strip() or lines[-1].strip()
    return _CLASS_NAME.sub("", text, count=1)


def _unregistered_name(message: str) -> str | None:
    """Return the sentence about a name that Detectron2's registries and catalog do not have."""
    if match := _NO_OBJECT.search(message):
        name, registry = match.groups()
        key = _REGISTRY_KEYS.get(registry, f"a name in the registry {registry}")
        return (
            f'{key} is "{name}", which is not registered; IMPORTS names modules that register more'
        )
    if match := _NO_DATASET.search(message):
        name, available = match.groups()
        similar = difflib.get_close_matches(name, available.split(", "), 10, 0.5)
        hint = f"; similar names are {', '.join(similar)}" if similar else ""
        return f'there is no data set "{name}"{hint}'
    if match := _NO_METADATA.search(message):
        field, name = match.groups()
        return f'the metadata of the data set {name} has no "{field}", which is needed here'
    return None


def _message_of_process(text: str) -> str | None:
    """Return the sentence of an error of this package that ended a process; None for a bug."""
    last = next((line for line in reversed(text.splitlines()) if _CLASS_NAME.match(line)), "")
    own = last.partition(".")[0] in own_packages()
    return " ".join(_cause_of_traceback(text).split()) if own else None


def _missing_package(error: ImportError) -> str | None:
    """Return the sentence about a package that is not installed; None if it is one of ours."""
    name = (error.name or "").partition(".")[0]
    if not name or name in own_packages():
        return None
    if name == "detectron2":
        return hipie.WITHOUT_DETECTRON2
    if isinstance(error, ModuleNotFoundError):
        return f"the package {name} is needed and not installed: install it, or see hipie doctor"
    return f"the package {name} is installed in a version that does not work: install another one"


def _system_message(error: OSError) -> str | None:
    """Return the sentence about a file or connection; None if the error does not say which."""
    reason = SYSTEM_REASONS.get(error.errno or 0)
    if reason is None:
        return None
    names = [name for name in (error.filename, error.filename2) if name is not None]
    if not names:
        return f"a file or connection failed: {reason}"
    return f"{' and '.join(_shown(name) for name in names)}: {reason}"


def _shown(name: Any) -> str:
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else f"file {name}"


def _machine_error(error: Exception, message: str) -> HipieError:
    """Return a `HipieError` that callers who expect the builtin exception catch as well."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError(message)
    if isinstance(error, OSError):
        return MachineError(message)
    if isinstance(error, ImportError):
        return MissingPackageError(message)
    return OutOfMemoryError(message)
