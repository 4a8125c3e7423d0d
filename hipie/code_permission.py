"""Permission of the user to run the Python modules that `IMPORTS` of a configuration names.

`hipie.config.named_downloads.require_permitted_imports` checks it.
"""

from __future__ import annotations

import argparse
import os

from hipie.downloads.address import SetVariable

ALLOW_IMPORTS = "HIPIE_ALLOW_IMPORTS"


def are_imports_allowed() -> bool:
    """Whether `--allow-imports` or its variable permits `IMPORTS` of every configuration."""
    return os.environ.get(ALLOW_IMPORTS, "") not in ("", "0")


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--allow-imports`, which holds for this process and those that it starts."""
    parser.add_argument(
        "--allow-imports",
        nargs=0,
        action=SetVariable,
        const=ALLOW_IMPORTS,
        default=argparse.SUPPRESS,
        help="run the Python modules that IMPORTS of the configuration names",
    )
