#!/usr/bin/env python
"""Collections of small data sets: ODinW (35) and SegInW (25): `odinw/` and `seginw/`.

    python datasets/prepare_in_the_wild.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_in_the_wild.py --check [--root datasets]

DOWNLOADS holds zip archives, one a data set or one for all, or what is in them. The data sets that
are there are copied, images and annotations, into the folders in which they are distributed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.datasets.odinw_seginw import collection_splits
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check, count_objects
from hipie.data.preparation.cli import run
from hipie.data.preparation.sources import DownloadSource, SourceError, SourceFiles
from hipie.vocabularies.tables import collection_datasets, load_classes

SOURCES = [
    DownloadSource(
        "ODinW",
        "https://huggingface.co/GLIPModel/GLIP/tree/main/odinw_35",
        "35 archives",
        "each data set its own",
    ),
    DownloadSource(
        "SegInW",
        "https://huggingface.co/xdecoder/SegInW, linked at https://github.com/microsoft/X-Decoder",
        "25 archives",
        "each data set its own",
    ),
]
FAMILIES = ("odinw", "seginw")
NAMED = 5


def prepare(delivery: SourceFiles, root: Path) -> None:
    """Copy the data sets that are there."""
    pairs = []
    for family in FAMILIES:
        for name in collection_datasets(family):
            for folder in {images for _, images, _ in collection_splits(family, name)}:
                inside = delivery.below(folder.removeprefix(f"{family}/"))
                pairs += [(found, root / folder / path) for path, found in inside.items()]
    if not pairs:
        raise SourceError(f"{delivery.folder}: there is no data set of ODinW or SegInW here")
    delivery.copy_all(sorted(set(pairs)), "images and annotations")


def checks(root: Path) -> Iterator[Check]:
    """Every split of the collections that are there (of both, if none is)."""
    for family in [one for one in FAMILIES if (root / one).is_dir()] or FAMILIES:
        missing = []
        for name in collection_datasets(family):
            files = {split: (images, file) for split, images, file in _whole_splits(family, name)}
            there = {split: one for split, one in files.items() if (root / one[1]).is_file()}
            if not there:
                missing.append(name)
            for split, (images, file) in there.items():
                yield f"{family} {name} {split}", partial(_count, root, family, name, images, file)
        yield f"{family}: data sets", partial(_all_there, missing, len(collection_datasets(family)))


def _whole_splits(family: str, name: str) -> Iterator[tuple[str, str, str]]:
    """The splits that are not few-shot ones."""
    return (row for row in collection_splits(family, name) if "fewshot" not in row[2])


def _count(root: Path, family: str, name: str, images: str, file: str) -> str:
    contiguous = dict(load_classes(f"{family}_{name}").contiguous)
    return count_objects(load_coco_instances(root / file, root / images, contiguous))


def _all_there(missing: list[str], wanted: int) -> str:
    if missing:
        others = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise DatasetError(
            f"{len(missing)} of {wanted} are missing: {', '.join(missing[:NAMED])}{others}"
        )
    return f"all {wanted} are there"


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run(words, __doc__.split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
