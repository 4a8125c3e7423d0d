#!/usr/bin/env python
"""GRD (distributed as D3), expressions over groups of images: `grd/`.

    python datasets/prepare_grd.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_grd.py --check [--root datasets]

DOWNLOADS contains d3_images.zip and d3_pkl.zip, or their contents.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.grd import load_grd
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check, count_expressions
from hipie.data.preparation.cli import run
from hipie.data.preparation.sources import DownloadSource, SourceError, SourceFiles

SOURCES = [
    DownloadSource(
        "D3",
        "https://github.com/shikras/d-cube (Google Drive: d3_images.zip, d3_pkl.zip)",
        "10,578 images",
        "not for commercial use",
        files=(
            "grd/pkl/images.pkl",
            "grd/pkl/annotations.pkl",
            "grd/pkl/sentences.pkl",
            "grd/pkl/groups.pkl",
            "grd/images",
        ),
    )
]
TABLES = ("images", "annotations", "sentences", "groups")
PUBLISHED = {"groups": 106, "expressions": 316, "with expressions of absence": 422}


def prepare(source_files: SourceFiles, root: Path) -> None:
    """Copy the four tables and the images that they list."""
    dataset_root = root / "grd"
    for name in TABLES:
        source_files.copy(source_files.find(f"{name}.pkl"), dataset_root / "pkl" / f"{name}.pkl")
    names = {
        Path(record["file_name"])
        for record in load_grd(dataset_root / "pkl", "", absence_expressions=True)
    }
    images = []
    for name in sorted(names):
        if name.is_absolute() or ".." in name.parts:
            raise SourceError(
                f"{dataset_root / 'pkl/images.pkl'}: the image {name} is outside its folder"
            )
        images.append((source_files.find(name.as_posix()), dataset_root / "images" / name))
    source_files.copy_all(images, "images")


def checks(root: Path) -> Iterator[Check]:
    """Yield the checks of both benchmarks."""
    yield "GRD, expressions of presence", partial(_count, root, False)
    yield "GRD, with expressions of absence", partial(_count, root, True)


def _count(root: Path, absence: bool) -> str:
    records = load_grd(root / "grd/pkl", root / "grd/images", absence_expressions=absence)
    summary = count_expressions(records)
    groups = len({record["group_id"] for record in records})
    sent_ids = {entry["sent_id"] for record in records for entry in record["expressions"]}
    expressions = len(sent_ids)
    published = PUBLISHED["with expressions of absence" if absence else "expressions"]
    if (groups, expressions) != (PUBLISHED["groups"], published):
        raise DatasetError(
            f"{groups} groups with {expressions} expressions; published are "
            f"{PUBLISHED['groups']} with {published}"
        )
    return f"{groups} groups with {expressions} expressions; {summary}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
