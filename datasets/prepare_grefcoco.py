#!/usr/bin/env python
"""gRefCOCO, expressions with one target, several or none: `grefcoco/`.

    python datasets/prepare_grefcoco.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_grefcoco.py --check [--root datasets]

DOWNLOADS contains `grefs(unc).json` and `instances.json`, or a zip archive with them. The images
are COCO's `coco/train2014`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.refcoco import existing_splits, load_refcoco
from hipie.data.preparation.checks import Check, count_expressions
from hipie.data.preparation.cli import run
from hipie.data.preparation.sources import DownloadSource, SourceFiles

SOURCES = [
    DownloadSource(
        "gRefCOCO",
        "https://github.com/henghuiding/gRefCOCO",
        "two JSON files, about 260,000 expressions",
        "see there",
        files=("grefcoco/grefs(unc).json", "grefcoco/instances.json"),
    ),
    DownloadSource(
        "images",
        "http://images.cocodataset.org/zips/train2014.zip",
        "13 GB",
        "Flickr",
        files=("coco/train2014",),
    ),
]
FILES = {
    "grefs(unc).json": ("grefs(unc).json", "grefcoco/grefs(unc).json"),
    "instances.json": ("grefcoco/instances.json", "instances.json"),
}


def prepare(source_files: SourceFiles, root: Path) -> None:
    """Copy the two files."""
    for name, suffixes in FILES.items():
        source_files.copy(source_files.find(*suffixes), root / "grefcoco" / name)


def checks(root: Path) -> Iterator[Check]:
    """Yield the checks of all splits."""
    refs = root / "grefcoco/grefs(unc).json"
    splits: tuple[str, ...] = ("train", "val", "testA", "testB")
    if refs.is_file():
        splits = existing_splits(refs, splits)
    for split in splits:
        yield f"gRefCOCO {split}", partial(_count, root, split)


def _count(root: Path, split: str) -> str:
    dataset_root = root / "grefcoco"
    files = dataset_root / "grefs(unc).json", dataset_root / "instances.json"
    return count_expressions(load_refcoco(*files, root / "coco/train2014", split))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
