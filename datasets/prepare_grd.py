#!/usr/bin/env python
"""GRD, distributed as D3, expressions over groups of images: `grd/`.

    python datasets/prepare_grd.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_grd.py --check [--root datasets]

DOWNLOADS holds d3_images.zip and d3_pkl.zip, or what is in them.
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
    )
]
TABLES = ("images", "annotations", "sentences", "groups")
PUBLISHED = {"groups": 106, "sentences": 316, "expressions with absence": 422}


def prepare(delivery: SourceFiles, root: Path) -> None:
    """Copy the four tables, then the images that they name."""
    here = root / "grd"
    for name in TABLES:
        delivery.copy(delivery.find(f"{name}.pkl"), here / "pkl" / f"{name}.pkl")
    names = {
        Path(record["file_name"]) for record in load_grd(here / "pkl", "", absence_expressions=True)
    }
    images = []
    for name in sorted(names):
        if name.is_absolute() or ".." in name.parts:
            raise SourceError(f"{here / 'pkl/images.pkl'}: the image {name} leaves its folder")
        images.append((delivery.find(name.as_posix()), here / "images" / name))
    delivery.copy_all(images, "pictures")


def checks(root: Path) -> Iterator[Check]:
    """The two benchmarks."""
    yield "GRD, what is there", partial(_count, root, False)
    yield "GRD, and what is missing", partial(_count, root, True)


def _count(root: Path, absence: bool) -> str:
    records = load_grd(root / "grd/pkl", root / "grd/images", absence_expressions=absence)
    words = count_expressions(records)
    groups = len({record["group_id"] for record in records})
    said = len({s["sent_id"] for record in records for s in record["expressions"]})
    wanted = PUBLISHED["expressions with absence" if absence else "sentences"]
    if (groups, said) != (PUBLISHED["groups"], wanted):
        raise DatasetError(
            f"{groups} groups with {said} expressions; published are {PUBLISHED['groups']} with "
            f"{wanted}"
        )
    return f"{groups} groups with {said} expressions; {words}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run(words, __doc__.split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
