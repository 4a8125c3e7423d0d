"""Command `hipie data`: `show DATASET --output DIR` draws a data set, `check DATASET` checks it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hipie.cli import data_check
from hipie.data import show

COMMANDS = {"show": show.main, "check": data_check.main}
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
        return COMMANDS[arguments[0]](arguments[1:])
    help_requested = bool(arguments) and arguments[0] in ("-h", "--help")
    print(USAGE, file=sys.stdout if help_requested else sys.stderr)
    return 0 if help_requested else 2


if __name__ == "__main__":
    sys.exit(main())
