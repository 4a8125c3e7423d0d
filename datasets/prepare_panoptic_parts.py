#!/usr/bin/env python
"""Pascal and Cityscapes Panoptic Parts: label maps of 200, 57 or 50 classes.

    python datasets/prepare_panoptic_parts.py [--root datasets] [--workers N]
    python datasets/prepare_panoptic_parts.py --check [--root datasets]

Pascal: unpack VOC 2010 in `VOCdevkit/`, and the labels of Pascal Panoptic Parts as
`pascal_parts/labels/{training,validation}/*.tif` (and `test` if available). Written beside
them: `..._pano/` (200 classes) and `..._merged/` (57).
Cityscapes: `cityscapes/leftImg8bit/` and `cityscapes/gtFinePanopticParts/{train,val}/`. Written:
`images_all/` (links where possible) and `gtFinePanopticPartsRemapped/`. The label 0 is ignored.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.preparation.checks import Check, check_label_maps
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import (
    Job,
    convert_all,
    link_image,
    lookup_table,
    relabel_parts,
)
from hipie.data.preparation.pascal_part import IGNORE_LABEL, NUM_LABELS, part_tables
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError
from hipie.vocabularies.tables import load_classes

SOURCES = [
    DownloadSource(
        "Pascal Panoptic Parts",
        "https://github.com/pmeletis/panoptic_parts",
        "labels 75 MB",
        "images under Flickr's terms",
        files=("pascal_parts/labels/training", "pascal_parts/labels/validation"),
    ),
    DownloadSource(
        "VOC 2010",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
        "1.3 GB",
        "images under Flickr's terms",
        files=("VOCdevkit/VOC2010/JPEGImages",),
    ),
    DownloadSource(
        "Cityscapes and its Panoptic Parts",
        "https://www.cityscapes-dataset.com/downloads/",
        "after registration; leftImg8bit_trainvaltest.zip 11 GB, gtFinePanopticParts 0.2 GB",
        "for research",
        files=("cityscapes/leftImg8bit", "cityscapes/gtFinePanopticParts"),
    ),
]
SPLITS = ("training", "validation", "test")
CITY_SPLITS = ("train", "val")
LABELS, IMAGE = "_gtFinePanopticParts.tif", "_leftImg8bit.png"
PUBLISHED = {"training": 4_998, "validation": 5_105, "train": 2_975, "val": 500}
# Cityscapes' classes without a label: ego vehicle, borders, static and dynamic objects.
CITY_IGNORED = range(1, 6)


def city_table() -> np.ndarray:
    """Return the lookup table of Cityscapes from class * 100 + part to labels."""
    originals = load_classes("cityscapes_panoptic_parts").originals
    pairs = [(n, position) for position, numbers in enumerate(originals, 1) for n in numbers]
    return lookup_table([*((n, IGNORE_LABEL) for n in (0, *CITY_IGNORED)), *pairs], NUM_LABELS)


def prepare(root: Path, workers: int) -> None:
    """Write the label maps of the existing data sets."""
    labels, city = root / "pascal_parts/labels", root / "cityscapes"
    pascal_sources = [labels / split for split in SPLITS if (labels / split).is_dir()]
    city_source = city / "gtFinePanopticParts"
    if not pascal_sources and not city_source.is_dir():
        raise MissingFileError(f"neither {labels / 'validation'} nor {city_source} exists")
    for folder in pascal_sources:
        for name, table in part_tables().items():
            target = labels / f"{folder.name}_{name}"
            jobs = [Job((file,), target / file.name) for file in sorted(folder.glob("*.tif"))]
            convert_all(partial(relabel_parts, table), jobs, workers, target.name)
    for split in CITY_SPLITS if city_source.is_dir() else ():
        prepare_city(city, split, workers)


def prepare_city(city_root: Path, split: str, workers: int) -> None:
    """Write the label maps of one split of Cityscapes, and link its images."""
    folder = city_root / "gtFinePanopticParts" / split
    names = [
        path.relative_to(folder).as_posix().removesuffix(LABELS)
        for path in sorted(folder.rglob(f"*{LABELS}"))
    ]
    target = city_root / "gtFinePanopticPartsRemapped" / split
    maps = [Job((folder / f"{name}{LABELS}",), target / f"{name}{LABELS}") for name in names]
    convert_all(partial(relabel_parts, city_table()), maps, workers, f"Cityscapes {split}")
    city_images, images = city_root / "leftImg8bit" / split, city_root / "images_all" / split
    links = [Job((city_images / f"{name}{IMAGE}",), images / f"{name}{IMAGE}") for name in names]
    convert_all(link_image, links, workers, f"images of Cityscapes {split}")


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of all existing label maps."""
    labels, city = root / "pascal_parts/labels", root / "cityscapes"
    rows = [
        (labels / f"{split}_{name}", root / "VOCdevkit/VOC2010/JPEGImages", count, split)
        for split in SPLITS
        for name, count in (("pano", 200), ("merged", 57))
    ]
    rows += [
        (city / "gtFinePanopticPartsRemapped" / split, city / "images_all" / split, 50, split)
        for split in CITY_SPLITS
    ]
    for maps, images, classes, split in [row for row in rows if row[0].is_dir()] or rows[:1]:
        suffixes = {"label_suffix": ".tif"}
        if split in CITY_SPLITS:
            suffixes = {"label_suffix": LABELS, "image_suffix": IMAGE}
        load = partial(load_label_maps, maps, images, key="part_seg_file_name", **suffixes)
        labels, count = range(classes + 1), PUBLISHED.get(split)
        yield (
            f"{maps.parent.name}/{maps.name}",
            partial(check_label_maps, load, labels, count, workers),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
