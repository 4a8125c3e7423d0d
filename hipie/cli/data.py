"""Command `hipie data`: `show DATASET --output DIR` draws a data set, `check DATASET` checks it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

# Modules with `main(arguments) -> int`, imported when they run: the help needs none of them.
COMMANDS = {"show": "hipie.cli.data_show", "check": "hipie.cli.data_check"}
USAGE = "usage: hipie data {show,check} DATASET ...; add --help for the arguments"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status of the command; 2 for an unknown command.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in COMMANDS:
        status: int = import_module(COMMANDS[arguments[0]]).main(arguments[1:])
        return status
    help_requested = bool(arguments) and arguments[0] in ("-h", "--help")
    print(USAGE, file=sys.stdout if help_requested else sys.stderr)
    return 0 if help_requested else 2


if __name__ == "__main__":
    sys.exit(main())
