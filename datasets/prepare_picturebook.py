"""Draw the picture book to disk.

    python datasets/prepare_picturebook.py --root datasets/picturebook
    python datasets/prepare_picturebook.py --root datasets/picturebook --split val --count 500
    python datasets/prepare_picturebook.py --root datasets/picturebook --check

Without --split, all three splits are drawn. A finished split is kept; an interrupted one is
completed. A root contains one seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hipie.data.picturebook import SPLITS, write_split
from hipie.data.picturebook.check import check_split
from hipie.data.preparation.cli import run_preparation
from hipie.errors import printable_lines

COUNTS = {"train": (4000, 60), "val": (500, 20), "unseen": (500, 20)}
"""Default numbers of pages and groups of a split."""


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of the book, of one seed")
    parser.add_argument("--seed", type=int, default=0, help="seed of the book (default 0)")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS, help="default: all")
    parser.add_argument("--count", type=int, help="pages per split (default 4000, 500, 500)")
    parser.add_argument("--groups", type=int, help="groups per split (default 60, 20, 20)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--check", action="store_true", help="only check existing files")
    return parser.parse_args(arguments)


class _ProgressLine:
    """Print finished pages, pages per second and remaining time on one line."""

    def __init__(self, title: str) -> None:
        self.title, self.start = title, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self.start
        rate = done / max(seconds, 1e-6)
        left = (total - done) / max(rate, 1e-6)
        end = "\n" if done >= total else ""
        line = f"\r{self.title}: {done}/{total} pages, {rate:.1f}/s, {left:.0f} s left "
        print(line, end=end, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    options = _parse_arguments(arguments)
    return run_preparation(Path(__file__).name, lambda: _check_or_write(options))


def _check_or_write(options: argparse.Namespace) -> int:
    if options.check:
        problems = [line for split in options.split for line in check_split(options.root, split)]
        print(
            printable_lines("\n".join(problems))
            or f"{options.root}: {', '.join(options.split)} are consistent"
        )
        return 1 if problems else 0
    for split in options.split:
        pages, groups = COUNTS[split]
        write_split(
            options.root,
            options.seed,
            split,
            pages if options.count is None else options.count,
            groups=groups if options.groups is None else options.groups,
            workers=options.workers,
            progress=_ProgressLine(split),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
