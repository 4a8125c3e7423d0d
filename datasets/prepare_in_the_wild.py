#!/usr/bin/env python
"""Collections of small data sets: ODinW (35) and SegInW (25): `odinw/` and `seginw/`.

    python datasets/prepare_in_the_wild.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_in_the_wild.py --check [--root datasets]

DOWNLOADS contains zip archives, one per data set or one for all, or their contents. The images
and annotations of existing data sets are copied with their folder structure.
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
        files=("odinw",),
    ),
    DownloadSource(
        "SegInW",
        "https://huggingface.co/xdecoder/SegInW, linked at https://github.com/microsoft/X-Decoder",
        "25 archives",
        "each data set its own",
        files=("seginw",),
    ),
]
FAMILIES = ("odinw", "seginw")
MAX_LISTED = 5


def prepare(source_files: SourceFiles, root: Path) -> None:
    """Copy the data sets that the downloads contain."""
    pairs = []
    for family in FAMILIES:
        for name in collection_datasets(family):
            for folder in {images for _, images, _ in collection_splits(family, name)}:
                files = source_files.below(folder.removeprefix(f"{family}/"))
                pairs += [(name, root / folder / path) for path, name in files.items()]
    if not pairs:
        raise SourceError(f"{source_files.folder}: there is no data set of ODinW or SegInW here")
    source_files.copy_all(sorted(set(pairs)), "images and annotations")


def checks(root: Path) -> Iterator[Check]:
    """Yield the checks of every split of the existing collections; of both if there is none."""
    for family in [family for family in FAMILIES if (root / family).is_dir()] or FAMILIES:
        missing = []
        for name in collection_datasets(family):
            files = {split: (images, file) for split, images, file in _full_splits(family, name)}
            existing = {
                split: paths for split, paths in files.items() if (root / paths[1]).is_file()
            }
            if not existing:
                missing.append(name)
            for split, (images, file) in existing.items():
                yield f"{family} {name} {split}", partial(_count, root, family, name, images, file)
        yield (
            f"{family}: data sets",
            partial(_check_complete, missing, len(collection_datasets(family))),
        )


def _full_splits(family: str, name: str) -> Iterator[tuple[str, str, str]]:
    """Return the splits that are not few-shot splits."""
    return (row for row in collection_splits(family, name) if "fewshot" not in row[2])


def _count(root: Path, family: str, name: str, images: str, file: str) -> str:
    contiguous = dict(load_classes(f"{family}_{name}").contiguous)
    return count_objects(load_coco_instances(root / file, root / images, contiguous))


def _check_complete(missing: list[str], count: int) -> str:
    if missing:
        others = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
        raise DatasetError(
            f"{len(missing)} of {count} are missing: {', '.join(missing[:MAX_LISTED])}{others}"
        )
    return f"all {count} exist"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
