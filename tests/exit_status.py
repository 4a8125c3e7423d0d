"""Exit status of a program that is run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence


def exit_status(main: Callable[[Sequence[str]], int | None], arguments: Sequence[str]) -> int:
    """Run a program as the interpreter does: a text as status is printed, and is status 1."""
    try:
        return main(arguments) or 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
