#!/usr/bin/env python
"""Clothing Co-Parsing: label maps of the 59 tags from its MATLAB files.

    python datasets/prepare_ccp.py [--root datasets] [--workers N]
    python datasets/prepare_ccp.py --check [--root datasets]

Clone the repository, so that there are `clothing-co-parsing/photos/*.jpg` and
`clothing-co-parsing/annotations/pixel-level/*.mat`. A file (MATLAB 5) holds `groundtruth`, the tag
of every pixel, 0 to 58 in the order of `label_list.mat`; 0 ("null") is the background. Written:
`clothing-co-parsing/label_maps/{train,val}/*.png`. The photographs with image-level tags alone are
not used. The distribution has no splits: here `val` has the photographs whose number is a multiple
of 5, and `train` the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check, check_label_maps
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import (
    Job,
    convert_all,
    lookup_table,
    relabel_matlab,
)
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError

FOLDER = "clothing-co-parsing"
SOURCES = [
    DownloadSource(
        "Clothing Co-Parsing",
        "https://github.com/bearpaw/clothing-co-parsing",
        "0.1 GB",
        "Apache-2.0",
        files=(f"{FOLDER}/photos/*.jpg", f"{FOLDER}/annotations/pixel-level/*.mat"),
    )
]
NUM_CLASSES = 59
VAL_STEP = 5
PUBLISHED = {"train": 804, "val": 200}


def split_of(name: str) -> str:
    """Return the split of a photograph by its number."""
    return "train" if int(name) % VAL_STEP else "val"


def prepare(root: Path, workers: int) -> None:
    """Write the label maps."""
    folder = root / FOLDER
    annotations = folder / "annotations/pixel-level"
    if not annotations.is_dir():
        raise MissingFileError(f"{annotations}: there is no such folder")
    paths = sorted(path for path in annotations.glob("*.mat") if not path.name.startswith("."))
    for path in paths:
        if not path.stem.isdecimal():
            raise DatasetError(f"{path}: the name of an annotation is a number")
    table = lookup_table([(i, i) for i in range(NUM_CLASSES)], NUM_CLASSES)
    jobs = [
        Job((path,), folder / "label_maps" / split_of(path.stem) / f"{path.stem}.png")
        for path in paths
    ]
    convert_all(partial(relabel_matlab, table, variable="groundtruth"), jobs, workers, "CCP")


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of all label maps."""
    for split in ("train", "val"):
        load = partial(
            load_label_maps,
            root / FOLDER / "label_maps" / split,
            root / FOLDER / "photos",
            key="part_seg_file_name",
        )
        labels, count = range(NUM_CLASSES), PUBLISHED.get(split)
        yield f"label maps of {split}", partial(check_label_maps, load, labels, count, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
