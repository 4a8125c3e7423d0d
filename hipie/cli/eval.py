"""`hipie eval`: `hipie train --eval-only`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hipie.cli import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate a model on the test sets of its configuration; see `hipie.cli.train.main`."""
    options = sys.argv[1:] if arguments is None else arguments
    return train.main(["--eval-only", *options], program="hipie eval")


if __name__ == "__main__":
    sys.exit(main())
