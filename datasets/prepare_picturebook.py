"""Draw the picture book to disk.

    python datasets/prepare_picturebook.py --root datasets/picturebook
    python datasets/prepare_picturebook.py --root datasets/picturebook --split val --count 500
    python datasets/prepare_picturebook.py --root datasets/picturebook --check

Without --split, all three splits are drawn. A finished split is left alone; an interrupted one is
completed. One root holds one seed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from hipie.data.picturebook import SPLITS, PictureBookError, write_split
from hipie.data.picturebook.check import check_split

COUNTS = {"train": (4000, 60), "val": (500, 20), "unseen": (500, 20)}
"""Pages and groups of a split when the command line does not say."""


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder to write; holds one seed")
    parser.add_argument("--seed", type=int, default=0, help="which book (default 0)")
    parser.add_argument("--split", nargs="+", choices=SPLITS, default=SPLITS, help="default: all")
    parser.add_argument("--count", type=int, help="pages a split (default 4000, 500, 500)")
    parser.add_argument("--groups", type=int, help="groups a split (default 60, 20, 20)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (default 1)")
    parser.add_argument("--check", action="store_true", help="check what is there; draw nothing")
    return parser.parse_args(words)


class _Meter:
    """Prints pages done, pages a second and the time left on one line."""

    def __init__(self, title: str) -> None:
        self.title, self.start = title, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self.start
        rate = done / max(seconds, 1e-6)
        left = (total - done) / max(rate, 1e-6)
        end = "\n" if done >= total else ""
        line = f"\r{self.title}: {done}/{total} pages, {rate:.1f} a second, {left:.0f} s left "
        print(line, end=end, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    chosen = _arguments(words)
    if chosen.check:
        problems = [line for split in chosen.split for line in check_split(chosen.root, split)]
        print("\n".join(problems) or f"{chosen.root}: {', '.join(chosen.split)} agree")
        return 1 if problems else 0
    try:
        for split in chosen.split:
            pages, groups = COUNTS[split]
            write_split(
                chosen.root,
                chosen.seed,
                split,
                pages if chosen.count is None else chosen.count,
                groups=groups if chosen.groups is None else chosen.groups,
                workers=chosen.workers,
                progress=_Meter(split),
            )
    except PictureBookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
