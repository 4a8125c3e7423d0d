"""Filters of log messages."""

from __future__ import annotations

import io
import logging

from hipie.logs import RepeatedWarningFilter


def test_a_warning_of_a_package_is_written_once() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RepeatedWarningFilter("tested.data", limit=2))
    loggers = {name: logging.getLogger(name) for name in ("tested.data.reader", "tested.database")}
    for logger in loggers.values():
        logger.handlers, logger.propagate = [handler], False
    data, other = loggers.values()
    for _ in range(2):
        data.warning("%s: a box", "a.json")
        data.warning("%s: a box", "b.json")
        data.error("%s: a box", "a.json")
        other.warning("%s: a box", "a.json")
    lines = stream.getvalue().splitlines()
    assert lines.count("b.json: a box") == 1
    assert lines.count("a.json: a box") == 1 + 2 + 2
    # What is not remembered is written again.
    data.warning("c.json: a box")
    data.warning("c.json: a box")
    assert stream.getvalue().splitlines().count("c.json: a box") == 2
