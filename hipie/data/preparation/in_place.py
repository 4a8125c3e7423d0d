"""What the programs share that make label maps inside the tree, beside the files as distributed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hipie.data.image_io import read_label_map
from hipie.data.io.paths import datasets_root
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.cli import Check, report
from hipie.data.preparation.label_maps import map_all
from hipie.data.preparation.sources import Source

MOST_WORKERS = 16


def run_in_place(
    words: Sequence[str] | None,
    description: str,
    sources: Sequence[Source],
    prepare: Callable[[Path, int], None],
    checks: Callable[[Path, int], Iterable[Check]],
) -> int:
    """Run a program: make label maps in a data set's tree, or check them.

    Args:
        words: the command line; None = the program's own.
        description: one sentence.
        sources: where the files come from.
        prepare: takes the root and a number of processes; keeps what is there.
        checks: the checks of a finished tree, with the same arguments.

    Returns:
        the exit status: 0, 1 for a tree with problems, 2 for files that cannot be used, 130 when
        stopped.
    """
    parser = argparse.ArgumentParser(
        description="\n".join([description, "", "Sources:", *map(str, sources)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help=f"of all data sets (default {datasets_root()})"
    )
    parser.add_argument("--workers", type=int, default=min(MOST_WORKERS, os.cpu_count() or 1))
    parser.add_argument("--check", action="store_true", help="check what is there; write nothing")
    chosen = parser.parse_args(words)
    root = chosen.root or datasets_root()
    try:
        if not chosen.check:
            prepare(root, chosen.workers)
        return report(checks(root, chosen.workers))
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        print("The files are from:", file=sys.stderr)
        print("\n".join(f"  {source}" for source in sources), file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def check_label_maps(
    load: Callable[[], list[dict[str, Any]]],
    classes: Iterable[int],
    published: int | None,
    workers: int,
) -> str:
    """Read every label map of a data set.

    Args:
        load: gives the records, with `sem_seg_file_name` or `part_seg_file_name`.
        classes: the numbers that may occur.
        published: how many images there should be; None = any number.
        workers: processes.

    Returns:
        what was counted, in words.

    Raises:
        DatasetError: naming the map that is damaged, has foreign numbers, or another size than its
            image; or if some are missing.
    """
    records = load()
    allowed = frozenset(classes)
    shown: set[int] = set()
    for found in map_all(partial(_classes_in, allowed), records, workers, "Reading"):
        shown |= found
    if published is not None and len(records) != published:
        raise DatasetError(f"there are {len(records)} label maps, and there should be {published}")
    return f"{len(records)} label maps, which show {len(shown)} of {len(allowed)} numbers"


def _classes_in(allowed: frozenset[int], record: dict[str, Any]) -> set[int]:
    path = record.get("sem_seg_file_name") or record["part_seg_file_name"]
    labels = read_label_map(path)
    with Image.open(record["file_name"]) as image:
        if image.size != labels.shape[::-1]:
            raise DatasetError(
                f"{path}: the label map has {labels.shape[::-1]} pixels, the image {image.size}"
            )
    found = set(np.unique(labels).tolist())
    if not found <= allowed:
        raise DatasetError(f"{path}: the number {min(found - allowed)} is of no class")
    return found
