#!/usr/bin/env python
"""Pascal-Part: label maps of 200 or 57 classes from its MATLAB files.

    python datasets/prepare_pascal_part.py [--root datasets] [--workers N]
    python datasets/prepare_pascal_part.py --check [--root datasets]

Unpack VOC 2010 in `VOCdevkit/`, and Pascal-Part's annotations as
`VOCdevkit/VOC2010/Annotations_Part/*.mat`. Written: `pascal_part/labels/{training,validation}/`, in
the encoding of Pascal Panoptic Parts (class, object, part), and from them `..._pano/` (200 classes)
and `..._merged/` (57), where 0 is ignored. Splits are VOC 2010's lists.

Published results come from Pascal Panoptic Parts (`prepare_panoptic_parts.py`), which joins these
annotations with Pascal Context's, and so labels stuff too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.preparation.checks import Check, check_label_maps
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import Job, convert_all, relabel_parts
from hipie.data.preparation.pascal_part import number_parts, part_tables
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError

SOURCES = [
    DownloadSource(
        "Pascal-Part",
        "https://roozbehm.info/pascal-parts/pascal-parts.html",
        "10,103 files",
        "none stated",
        files=("VOCdevkit/VOC2010/Annotations_Part",),
    ),
    DownloadSource(
        "VOC 2010",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
        "1.3 GB",
        "images under Flickr's terms",
        files=("VOCdevkit/VOC2010/JPEGImages",),
    ),
]
SPLITS = {"training": "train", "validation": "val"}
PUBLISHED = {"training": 4_998, "validation": 5_105}
NUM_CLASSES = {"pano": 200, "merged": 57}


def prepare(root: Path, workers: int) -> None:
    """Write the label maps of the existing files."""
    voc_root, target = root / "VOCdevkit/VOC2010", root / "pascal_part/labels"
    source = voc_root / "Annotations_Part"
    if not source.is_dir():
        raise MissingFileError(f"{source}: there is no such folder")
    for folder, split in SPLITS.items():
        split_file = voc_root / "ImageSets/Main" / f"{split}.txt"
        if not split_file.is_file():
            raise MissingFileError(f"{split_file}: there is no such list")
        names = [
            name
            for name in split_file.read_text(encoding="ascii").split()
            if (source / f"{name}.mat").is_file()
        ]
        uid_root = target / folder
        jobs = [Job((source / f"{name}.mat",), uid_root / f"{name}.tif") for name in names]
        convert_all(number_parts, jobs, workers, f"Pascal-Part {folder}")
        for kind, table in part_tables().items():
            map_root = target / f"{folder}_{kind}"
            jobs = [Job((uid_root / f"{name}.tif",), map_root / f"{name}.tif") for name in names]
            convert_all(partial(relabel_parts, table), jobs, workers, map_root.name)


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of all label maps."""
    for folder in SPLITS:
        for kind, count in NUM_CLASSES.items():
            load = partial(
                load_label_maps,
                root / "pascal_part/labels" / f"{folder}_{kind}",
                root / "VOCdevkit/VOC2010/JPEGImages",
                label_suffix=".tif",
                key="part_seg_file_name",
            )
            labels, published = range(count + 1), PUBLISHED.get(folder)
            yield f"{folder}_{kind}", partial(check_label_maps, load, labels, published, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
