#!/usr/bin/env python
"""GRD, distributed as D3, sentences over groups of pictures: `grd/`.

    python datasets/prepare_grd.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_grd.py --check [--root datasets]

DOWNLOADS holds d3_images.zip and d3_pkl.zip, or what is in them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.delivery import Delivery, DeliveryError, Source
from hipie.data.datasets.grd import load_grd
from hipie.data.datasets.json_file import DatasetError
from hipie.data.datasets.preparation import Check, run
from hipie.data.datasets.sentence_counts import counted

SOURCES = [
    Source(
        "D3",
        "https://github.com/shikras/d-cube (Google Drive: d3_images.zip, d3_pkl.zip)",
        "10,578 pictures",
        "not for commercial use",
    )
]
TABLES = ("images", "annotations", "sentences", "groups")
PUBLISHED = {"groups": 106, "sentences": 316, "sentences with absence": 422}


def prepare(delivery: Delivery, root: Path) -> None:
    """Copy the four tables, then the pictures that they name."""
    here = root / "grd"
    for name in TABLES:
        delivery.copy(delivery.find(f"{name}.pkl"), here / "pkl" / f"{name}.pkl")
    names = {Path(record["file_name"]) for record in load_grd(here / "pkl", "", absence=True)}
    pictures = []
    for name in sorted(names):
        if name.is_absolute() or ".." in name.parts:
            raise DeliveryError(f"{here / 'pkl/images.pkl'}: the picture {name} leaves its folder")
        pictures.append((delivery.find(name.as_posix()), here / "images" / name))
    delivery.copy_all(pictures, "pictures")


def checks(root: Path) -> Iterator[Check]:
    """The two benchmarks."""
    yield "GRD, what is there", partial(_count, root, False)
    yield "GRD, and what is missing", partial(_count, root, True)


def _count(root: Path, absence: bool) -> str:
    records = load_grd(root / "grd/pkl", root / "grd/images", absence=absence)
    words = counted(records)
    groups = len({record["group_id"] for record in records})
    said = len({s["sent_id"] for record in records for s in record["sentences"]})
    wanted = PUBLISHED["sentences with absence" if absence else "sentences"]
    if (groups, said) != (PUBLISHED["groups"], wanted):
        raise DatasetError(
            f"{groups} groups with {said} sentences; published are {PUBLISHED['groups']} with "
            f"{wanted}"
        )
    return f"{groups} groups with {said} sentences; {words}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run(words, __doc__.split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
