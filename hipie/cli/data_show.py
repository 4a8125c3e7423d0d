"""Command `hipie data show DATASET --output DIR`: contact sheets of a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.dataset_argument import add_arguments, dataset_config, open_dataset
from hipie.data.build import build_mapped_dataset
from hipie.data.show import write_sheets, write_training_sheets
from hipie.error_report import one_line_errors
from hipie.errors import printable_message

DEFAULT_COUNT = 8


def show(args: argparse.Namespace) -> list[Path]:
    """Write the contact sheets of a data set, and return their paths."""
    args.count = DEFAULT_COUNT if args.count is None else args.count
    cfg = dataset_config(args)
    records, metadata = open_dataset(args, cfg)
    if args.augmented:
        mapped = build_mapped_dataset(cfg, metadata.name, training=True)
        return write_training_sheets(
            mapped, cfg, args.dataset, args.output, args.count, overwrite=args.overwrite
        )
    return write_sheets(records, metadata, args.dataset, args.output, overwrite=args.overwrite)


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the program."""
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the sheets")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files in it that hipie did not write"
    )
    parser.add_argument(
        "--augmented",
        action="store_true",
        help="draw what a model is trained on by the configuration: augmented images with their "
        "text",
    )
    add_arguments(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        SystemExit: with one line, if it cannot be opened or drawn; see `one_line_errors`.
    """
    parser = argparse.ArgumentParser(prog="hipie data show", description="Draw a data set.")
    add_show_arguments(parser)
    args = parser.parse_args(arguments)
    with one_line_errors("hipie data show"):
        for file in show(args):
            print(printable_message(str(file)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
