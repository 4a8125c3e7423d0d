#!/usr/bin/env python
"""LVIS v1 and PACO: `lvis/` and `paco/`.

    python datasets/prepare_lvis.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_lvis.py --check [--root datasets]

DOWNLOADS contains the archives, or their JSON files; existing ones are copied. The
images are COCO's `coco/train2017` and `coco/val2017`; those of PACO-Ego4D, which Ego4D provides
after registration, are in `ego4d/v1/paco_frames`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.datasets.lvis import load_lvis
from hipie.data.preparation.checks import Check, count_objects
from hipie.data.preparation.cli import run
from hipie.data.preparation.sources import DownloadSource, SourceError, SourceFiles
from hipie.vocabularies.tables import load_classes

LVIS, PACO = (
    "https://dl.fbaipublicfiles.com/LVIS",
    "https://dl.fbaipublicfiles.com/paco/annotations",
)
SOURCES = [
    DownloadSource(
        "LVIS train",
        f"{LVIS}/lvis_v1_train.json.zip",
        "350 MB",
        "CC BY 4.0",
        files=("lvis/lvis_v1_train.json",),
    ),
    DownloadSource(
        "LVIS val",
        f"{LVIS}/lvis_v1_val.json.zip",
        "65 MB",
        "CC BY 4.0",
        files=("lvis/lvis_v1_val.json",),
    ),
    DownloadSource(
        "PACO-LVIS",
        f"{PACO}/paco_lvis_v1.zip",
        "130 MB",
        "MIT",
        files=(
            "paco/paco_lvis_v1_train.json",
            "paco/paco_lvis_v1_val.json",
            "paco/paco_lvis_v1_test.json",
        ),
    ),
    DownloadSource(
        "PACO-Ego4D",
        f"{PACO}/paco_ego4d_v1.zip",
        "small",
        "MIT; images Ego4D's own",
        files=(
            "paco/paco_ego4d_v1_train.json",
            "paco/paco_ego4d_v1_val.json",
            "paco/paco_ego4d_v1_test_dev.json",
            "ego4d/v1/paco_frames",
        ),
    ),
    DownloadSource(
        "images",
        "http://images.cocodataset.org/zips",
        "19 GB",
        "Flickr's terms",
        files=("coco/train2017", "coco/val2017"),
    ),
]
# File -> published number of images.
PUBLISHED = {
    "lvis/lvis_v1_train.json": 100_170,
    "lvis/lvis_v1_val.json": 19_809,
    "paco/paco_lvis_v1_train.json": 45_790,
    "paco/paco_lvis_v1_val.json": 2_410,
    "paco/paco_lvis_v1_test.json": 9_443,
    "paco/paco_ego4d_v1_train.json": 15_667,
    "paco/paco_ego4d_v1_val.json": 825,
    "paco/paco_ego4d_v1_test_dev.json": 9_892,
}


def prepare(source_files: SourceFiles, root: Path) -> None:
    """Copy the annotation files that the downloads contain."""
    pairs = [
        (source_files.find(Path(file).name), root / file)
        for file in PUBLISHED
        if source_files.ending_with(Path(file).name)
    ]
    if not pairs:
        raise SourceError(f"{source_files.folder}: there is no lvis_v1_*.json or paco_*.json here")
    source_files.copy_all(pairs, "annotations")


def checks(root: Path) -> Iterator[Check]:
    """Yield the checks of the existing files; of LVIS if there is none."""
    for file in [name for name in PUBLISHED if (root / name).is_file()] or list(PUBLISHED)[:2]:
        yield Path(file).stem, partial(_count, root, file)


def _count(root: Path, file: str) -> str:
    images = root / ("ego4d/v1/paco_frames" if "ego4d" in file else "coco")
    if file.startswith("lvis"):
        records = load_lvis(root / file, images, dict(load_classes("lvis_1203").contiguous))
    else:
        classes = load_classes("paco")
        records = load_coco_instances(root / file, images, dict(classes.contiguous))
    return count_objects(records, PUBLISHED[file])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
