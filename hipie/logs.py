"""Loggers whose messages may quote text from files.

Names in files of strangers can hold escape sequences, which a terminal obeys, and line breaks,
which forge messages. `get_logger` is used instead of `logging.getLogger` in the whole package.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hipie.errors import MAX_MESSAGE, printable, printable_lines

# An argument after a line break of the format, such as a table, keeps its lines.
_LINES = "\n%s"
_FORMATTER = logging.Formatter()


class PrintableFilter(logging.Filter):
    """Filter that makes messages printable, see `hipie.errors.printable`; it drops none.

    For loggers, and for handlers that write what other packages log.

    Args:
        one_line: whether line breaks of the message are made printable, too: of packages that put
            text from files into it.
    """

    def __init__(self, *, one_line: bool = False) -> None:
        super().__init__()
        self._one_line = one_line

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message and the arguments of a record."""
        has_lines = _LINES in str(record.msg) and not self._one_line
        clean = printable_lines if has_lines else _one_line
        record.msg = (_one_line if self._one_line else printable_lines)(str(record.msg))
        if isinstance(record.args, Mapping):
            record.args = {key: _argument(value, clean) for key, value in record.args.items()}
        elif record.args:
            record.args = tuple(_argument(value, clean) for value in record.args)
        if record.exc_info and record.exc_info[0] and not record.exc_text:
            record.exc_text = printable_lines(_FORMATTER.formatException(record.exc_info))
        return True


class RepeatedWarningFilter(logging.Filter):
    """Filter of a handler that drops a warning which it has passed before.

    A run reads its data sets several times, for training, for every evaluator and for checks.

    Args:
        package: whose warnings, with those of its modules.
        limit: number of warnings that are remembered.
    """

    def __init__(self, package: str, limit: int = 10_000) -> None:
        super().__init__()
        self._modules = logging.Filter(package)
        self._limit = limit
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is of another package or level, or new."""
        if record.levelno != logging.WARNING or not self._modules.filter(record):
            return True
        message = record.getMessage()
        is_new = message not in self._passed
        if is_new and len(self._passed) < self._limit:
            self._passed.add(message)
        return is_new


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, whose messages are printable.

    Args:
        name: `__name__` of the module.
    """
    logger = logging.getLogger(name)
    if not any(isinstance(one, PrintableFilter) for one in logger.filters):
        logger.addFilter(PrintableFilter())
    return logger


def make_printable(package: str) -> None:
    """Make what another package logs printable, where it writes to the terminal by itself.

    Args:
        package: name of its logger, whose stream handlers get a filter. Those of other kinds, of
            files for example, stay as they are.
    """
    for handler in logging.getLogger(package).handlers:
        if type(handler) is logging.StreamHandler and not any(
            isinstance(one, PrintableFilter) for one in handler.filters
        ):
            handler.addFilter(PrintableFilter(one_line=True))


def _argument(value: Any, clean: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else clean(str(value))


def _one_line(text: str) -> str:
    return printable(text, MAX_MESSAGE)
