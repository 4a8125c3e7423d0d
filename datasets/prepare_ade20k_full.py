#!/usr/bin/env python
"""ADE20K, full data set: 847 classes, images with a shorter side of at most 512.

    python datasets/prepare_ade20k_full.py [--root datasets] [--workers N]
    python datasets/prepare_ade20k_full.py --check [--root datasets]

Unpack the archive to `ade/ADE20K_2021_17_01/images/ADE/`. Written beside
it: `images_detectron2/` and `annotations_detectron2/` (16-bit TIFF, 65535 = no class). The index,
a pickle, is not read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.preparation.ade20k import image_of, reduce_classes, reduce_image
from hipie.data.preparation.checks import Check, check_label_maps
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import Job, convert_all, lookup_table
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError
from hipie.vocabularies.tables import load_classes

SOURCES = [
    DownloadSource(
        "ADE20K, version 2021_17_01",
        "https://groups.csail.mit.edu/vision/datasets/ADE20K/",
        "after registration; about 6 GB",
        "images for research; annotations BSD 3-clause",
        files=("ade/ADE20K_2021_17_01/images/ADE",),
    )
]
FOLDERS = ("training", "validation")
PUBLISHED = {"training": 25_574, "validation": 2_000}
IGNORE_LABEL, MAX_LABEL = 65535, 25 * 256 + 255


def prepare(root: Path, workers: int) -> None:
    """Write the images and label maps of both splits."""
    dataset_root = root / "ade/ADE20K_2021_17_01"
    originals = load_classes("ade20k_847").originals
    pairs = [(number, i) for i, numbers in enumerate(originals) for number in numbers]
    table = lookup_table(pairs, MAX_LABEL + 1, IGNORE_LABEL)
    for folder in FOLDERS:
        source = dataset_root / "images/ADE" / folder
        labels = sorted(source.rglob("*_seg.png"))
        if not labels:
            raise MissingFileError(f"{source}: there is no *_seg.png below it")
        images = dataset_root / "images_detectron2" / folder
        image_jobs = [
            Job((image_of(label_file),), images / image_of(label_file).name)
            for label_file in labels
        ]
        convert_all(reduce_image, image_jobs, workers, f"images of {folder}")
        maps = dataset_root / "annotations_detectron2" / folder
        jobs = [
            Job((label_file,), maps / f"{image_of(label_file).stem}.tif") for label_file in labels
        ]
        convert_all(partial(reduce_classes, table), jobs, workers, f"classes of {folder}")


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of both splits."""
    dataset_root = root / "ade/ADE20K_2021_17_01"
    for folder in FOLDERS:
        load = partial(
            load_label_maps,
            dataset_root / "annotations_detectron2" / folder,
            dataset_root / "images_detectron2" / folder,
            label_suffix=".tif",
        )
        labels = [*range(847), IGNORE_LABEL]
        yield folder, partial(check_label_maps, load, labels, PUBLISHED.get(folder), workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
