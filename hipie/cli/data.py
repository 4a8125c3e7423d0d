"""`hipie data show DATASET --output DIR` and `hipie data check DATASET`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hipie.data import check, show

COMMANDS = {"show": show.main, "check": check.main}
USAGE = "usage: hipie data {show,check} DATASET ...; --help after either says more"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands and return its exit status; 2 for another word."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    asked = bool(words) and words[0] in ("-h", "--help")
    print(USAGE, file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
