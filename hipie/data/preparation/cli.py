"""What the programs `datasets/prepare_*.py` share: their command line, and the check of a tree."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hipie.data.io.paths import datasets_root
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.sources import Delivery, Source

Check = tuple[str, Callable[[], str]]
"""A title, and a function that says what it counted, or raises."""


def run(
    words: Sequence[str] | None,
    description: str,
    sources: Sequence[Source],
    prepare: Callable[[Delivery, Path], None],
    checks: Callable[[Path], Iterable[Check]],
) -> int:
    """Run a program: write a data set's tree, or check one.

    Args:
        words: the command line; None = the program's own.
        description: one sentence.
        sources: where the files come from.
        prepare: writes the tree from the files as distributed; keeps what is there.
        checks: the checks of a finished tree.

    Returns:
        the exit status: 0, 1 for a tree with problems, 2 for files that cannot be used, 130 when
        stopped.
    """
    parser = argparse.ArgumentParser(
        description="\n".join([description, "", "Sources:", *map(str, sources)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="the files as distributed")
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help=f"of all data sets (default {datasets_root()})"
    )
    parser.add_argument("--check", action="store_true", help="check what is there; write nothing")
    chosen = parser.parse_args(words)
    root = chosen.root or datasets_root()
    if not chosen.check and chosen.source is None:
        print("error: --source says where the downloaded files are. They are from:")
        print("\n".join(f"  {source}" for source in sources))
        return 2
    try:
        if not chosen.check:
            prepare(Delivery(chosen.source), root)
        return report(checks(root))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def report(checks: Iterable[Check]) -> int:
    """Print a line for every check; returns 1 if one of them failed, else 0."""
    status = 0
    for title, check in checks:
        try:
            print(f"ok       {title}: {check()}")
        except (ValueError, FileNotFoundError) as error:
            status = 1
            print(f"PROBLEM  {title}: {error}")
    return status


def is_newer(target: Path, sources: Iterable[Path]) -> bool:
    """Whether a file is there, and was written after all of its sources."""
    if not target.is_file():
        return False
    written = target.stat().st_mtime_ns
    return all(source.stat().st_mtime_ns <= written for source in sources)


def objects_counted(records: list[dict[str, Any]], published: int | None = None) -> str:
    """How many objects are in how many images, in words.

    Args:
        records: with `annotations`.
        published: how many images there should be; None = any number.

    Raises:
        DatasetError: if there are others.
    """
    if published is not None and len(records) != published:
        raise DatasetError(f"there are {len(records)} images, and there should be {published}")
    return f"{sum(len(one['annotations']) for one in records)} objects in {len(records)} images"
