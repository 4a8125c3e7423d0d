#!/usr/bin/env python
"""Pascal VOC 2012 and Pascal Context: label maps of 21, 20, 59 and 459 classes.

    python datasets/prepare_pascal.py [--root datasets] [--workers N]
    python datasets/prepare_pascal.py --check [--root datasets]

Unpack VOC 2012 and VOC 2010, so that there are `VOCdevkit/VOC2012/` and `VOCdevkit/VOC2010/`, and
Context's trainval.tar.gz in the latter: `VOCdevkit/VOC2010/trainval/*.mat`. Written:
`pascal_voc_d2/` and `pascal_ctx_d2/`; images are linked where possible, else copied.

Context's splits are VOC 2010's lists of training and validation. Its 59 classes are made from the
459 by their names. Published numbers for 59 classes come from masks of the Detail API, a later
edition of the same annotations, so a few pixels may differ.
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
    relabel,
    relabel_matlab,
)
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError
from hipie.vocabularies.tables import load_vocabulary

VOC, CONTEXT = "http://host.robots.ox.ac.uk/pascal/VOC", "https://cs.stanford.edu/~roozbeh"
FLICKR = "images under Flickr's terms"
SOURCES = [
    DownloadSource(
        "VOC 2012",
        f"{VOC}/voc2012/VOCtrainval_11-May-2012.tar",
        "2 GB",
        FLICKR,
        files=("VOCdevkit/VOC2012/SegmentationClass",),
    ),
    DownloadSource(
        "VOC 2010",
        f"{VOC}/voc2010/VOCtrainval_03-May-2010.tar",
        "1.3 GB",
        FLICKR,
        files=("VOCdevkit/VOC2010/JPEGImages",),
    ),
    DownloadSource(
        "Context",
        f"{CONTEXT}/pascal-context/trainval.tar.gz",
        "31 MB",
        "none stated",
        files=("VOCdevkit/VOC2010/trainval",),
    ),
]
SPLITS = {"training": "train", "validation": "val"}
PUBLISHED = {
    ("voc", "training"): 1_464,
    ("voc", "validation"): 1_449,
    ("context", "training"): 4_998,
    ("context", "validation"): 5_105,
}
IGNORE_LABEL, IGNORE_LABEL_16_BIT = 255, 65535
# Class of the 59 -> its name among the 459.
RENAMED = {"diningtable": "table"}


def prepare(root: Path, workers: int) -> None:
    """Write the label maps of the existing data sets."""
    devkit = root / "VOCdevkit"
    writers = [
        (prepare_voc, devkit / "VOC2012/SegmentationClass"),
        (prepare_context, devkit / "VOC2010/trainval"),
    ]
    present = [write for write, folder in writers if folder.is_dir()]
    if not present:
        raise MissingFileError(
            "there is neither " + " nor ".join(str(folder) for _, folder in writers)
        )
    for write in present:
        write(root, workers)


def prepare_voc(root: Path, workers: int) -> None:
    """Write the label maps of VOC 2012 with 21 and 20 classes."""
    target_root, source_root = root / "pascal_voc_d2", root / "VOCdevkit/VOC2012"
    with_background = lookup_table([(i, i) for i in (*range(21), IGNORE_LABEL)], 256)
    without = lookup_table(
        [(0, IGNORE_LABEL), (IGNORE_LABEL, IGNORE_LABEL), *((i + 1, i) for i in range(20))], 256
    )
    for folder, split in SPLITS.items():
        names = _names(source_root / "ImageSets/Segmentation" / f"{split}.txt")
        _images(source_root, target_root, folder, names, workers)
        for classes, table in ((21, with_background), (20, without)):
            maps = target_root / f"annotations_pascal{classes}" / folder
            labels = source_root / "SegmentationClass"
            jobs = [Job((labels / f"{name}.png",), maps / f"{name}.png") for name in names]
            convert_all(partial(relabel, table), jobs, workers, f"{maps.parent.name} {folder}")


def prepare_context(root: Path, workers: int) -> None:
    """Write the label maps of Context with 459 and 59 classes."""
    target_root, source_root = root / "pascal_ctx_d2", root / "VOCdevkit/VOC2010"
    table_of_459 = lookup_table([(0, IGNORE_LABEL_16_BIT), *((i + 1, i) for i in range(459))], 460)
    for folder, split in SPLITS.items():
        all_names = _names(source_root / "ImageSets/Main" / f"{split}.txt")
        names = [name for name in all_names if (source_root / "trainval" / f"{name}.mat").is_file()]
        _images(source_root, target_root, folder, names, workers)
        for name, ending, table in (
            ("annotations_ctx459", ".tif", table_of_459),
            ("annotations_ctx59", ".png", table_of_59()),
        ):
            maps = target_root / name / folder
            jobs = [
                Job(
                    (source_root / "trainval" / f"{image_name}.mat",),
                    maps / f"{image_name}{ending}",
                )
                for image_name in names
            ]
            convert_all(partial(relabel_matlab, table), jobs, workers, f"{name} {folder}")


def table_of_59() -> np.ndarray:
    """Return the lookup table from the 459 labels of the files to the 59; others are ignored."""
    wide = load_vocabulary("pascal_context_459").names
    narrow = load_vocabulary("pascal_context_59").names
    pairs = [(wide.index(RENAMED.get(name, name)) + 1, i) for i, name in enumerate(narrow)]
    return lookup_table(pairs, 460, IGNORE_LABEL)


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise MissingFileError(f"{file}: there is no such list")
    return file.read_text(encoding="ascii").split()


def _images(
    source_root: Path, target_root: Path, folder: str, names: Sequence[str], workers: int
) -> None:
    jobs = [
        Job(
            (source_root / "JPEGImages" / f"{name}.jpg",),
            target_root / "images" / folder / f"{name}.jpg",
        )
        for name in names
    ]
    convert_all(link_image, jobs, workers, f"{target_root.name} {folder}")


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of all existing label maps."""
    rows = [
        ("pascal_voc_d2", "annotations_pascal21", ".png", 21, IGNORE_LABEL, "voc"),
        ("pascal_voc_d2", "annotations_pascal20", ".png", 20, IGNORE_LABEL, "voc"),
        ("pascal_ctx_d2", "annotations_ctx59", ".png", 59, IGNORE_LABEL, "context"),
        ("pascal_ctx_d2", "annotations_ctx459", ".tif", 459, IGNORE_LABEL_16_BIT, "context"),
    ]
    existing = [row for row in rows if (root / row[0]).is_dir()] or rows
    for folder_name, name, ending, classes, ignored, kind in existing:
        for folder in SPLITS:
            load = partial(
                load_label_maps,
                root / folder_name / name / folder,
                root / folder_name / "images" / folder,
                label_suffix=ending,
            )
            labels, count = [*range(classes), ignored], PUBLISHED.get((kind, folder))
            yield f"{name} {folder}", partial(check_label_maps, load, labels, count, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
