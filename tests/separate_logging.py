"""Loggers as they were before a run in the process of the tests."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hipie.projects import project_folders


@contextmanager
def separate_logging() -> Iterator[None]:
    """Restore the loggers after a run in this process, whose setup adds handlers of its files."""
    names = ("", "detectron2", "fvcore", "hipie", *project_folders())
    before = {name: list(logging.getLogger(name).handlers) for name in names}
    try:
        yield
    finally:
        if "detectron2.utils.logger" in sys.modules:
            from detectron2.utils.logger import _cached_log_stream, setup_logger

            setup_logger.cache_clear()
            _cached_log_stream.cache_clear()
        for name, handlers in before.items():
            logging.getLogger(name).handlers[:] = handlers
            logging.getLogger(name).propagate = True
