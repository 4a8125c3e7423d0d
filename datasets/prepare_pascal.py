#!/usr/bin/env python
"""Pascal VOC 2012 and Pascal Context: label maps of 21, 20, 59 and 459 classes.

    python datasets/prepare_pascal.py [--root datasets] [--workers N]
    python datasets/prepare_pascal.py --check [--root datasets]

Unpack VOC 2012 and VOC 2010, so that there are `VOCdevkit/VOC2012/` and `VOCdevkit/VOC2010/`, and
Context's trainval.tar.gz in the latter: `VOCdevkit/VOC2010/trainval/*.mat`. Written:
`pascal_voc_d2/` and `pascal_ctx_d2/`; images are linked where possible, else copied.

With SBD (Hariharan et al., ICCV 2011), `benchmark_RELEASE/dataset/cls/*.mat` and its lists
`train.txt` and `val.txt`, or with its masks as PNG files in `VOCdevkit/VOC2012/
SegmentationClassAug/`, the split `training_aug` is written, too: VOC's training images with VOC's
own masks, whose borders are ignored, and SBD's images with SBD's masks, which have no ignored
borders, without the images of VOC's validation. A list `ImageSets/Segmentation/trainaug.txt` or
`train_aug.txt`, where there is one, limits it to its images.

Context's splits are VOC 2010's lists of training and validation. Its 59 classes are made from the
459 by their names. Published numbers for 59 classes come from masks of the Detail API, a later
edition of the same annotations, so a few pixels may differ.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.io.validation import DatasetError
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
SBD = "http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
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
        "SBD",
        f"{SBD}/benchmark.tgz",
        "1.4 GB; for the split trainaug",
        FLICKR,
        files=("benchmark_RELEASE/dataset/cls",),
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
AUGMENTED = "training_aug"
SPLITS = {"training": "train", "validation": "val"}
PUBLISHED = {
    ("voc", "training"): 1_464,
    ("voc", "validation"): 1_449,
    ("voc", AUGMENTED): 10_582,
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
    source_root = root / "VOCdevkit/VOC2012"
    labels = source_root / "SegmentationClass"
    for folder, split in SPLITS.items():
        names = _names(source_root / "ImageSets/Segmentation" / f"{split}.txt")
        masks = {name: labels / f"{name}.png" for name in names}
        _write_voc(root, folder, masks, workers)
    augmented = augmented_masks(root)
    if augmented:
        _write_voc(root, AUGMENTED, augmented, workers)


def augmented_masks(root: Path) -> dict[str, Path]:
    """Return the masks of VOC's training images and of SBD's images, by the names of the images.

    Images of VOC's validation are left out. VOC's own masks take precedence over SBD's.

    Returns:
        A PNG of class numbers, or SBD's MATLAB file, for every image; empty if there is no SBD.

    Raises:
        FileNotFoundError: if a list is missing.
    """
    source_root, dataset = root / "VOCdevkit/VOC2012", root / "benchmark_RELEASE/dataset"
    converted, lists = source_root / "SegmentationClassAug", source_root / "ImageSets/Segmentation"
    masks: dict[str, Path] = {}
    if (dataset / "cls").is_dir():
        for split in SPLITS.values():
            masks |= {
                name: dataset / "cls" / f"{name}.mat" for name in _names(dataset / f"{split}.txt")
            }
    elif converted.is_dir():
        masks |= {path.stem: path for path in sorted(converted.glob("[!.]*.png"))}
    else:
        return {}
    for name in _names(lists / "train.txt"):
        masks[name] = source_root / "SegmentationClass" / f"{name}.png"
    for name in _names(lists / "val.txt"):
        masks.pop(name, None)
    for list_name in ("trainaug.txt", "train_aug.txt"):
        if (lists / list_name).is_file():
            # A line is a name, or the paths of an image and its mask.
            lines = (lists / list_name).read_text(encoding="ascii").splitlines()
            selected = {Path(line.split()[0]).stem for line in lines if line.strip()}
            unknown = sorted(selected - masks.keys())
            if unknown:
                raise DatasetError(
                    f'{lists / list_name}: "{unknown[0]}" has no mask, or is an image of validation'
                )
            return {name: path for name, path in masks.items() if name in selected}
    return masks


def _write_voc(root: Path, folder: str, masks: Mapping[str, Path], workers: int) -> None:
    """Link the images of a split, and write its label maps with 21 and 20 classes."""
    target_root, source_root = root / "pascal_voc_d2", root / "VOCdevkit/VOC2012"
    with_background = lookup_table([(i, i) for i in (*range(21), IGNORE_LABEL)], 256)
    without = lookup_table(
        [(0, IGNORE_LABEL), (IGNORE_LABEL, IGNORE_LABEL), *((i + 1, i) for i in range(20))], 256
    )
    _images(source_root, target_root, folder, list(masks), workers)
    for classes, table in ((21, with_background), (20, without)):
        maps = target_root / f"annotations_pascal{classes}" / folder
        jobs = [Job((mask,), maps / f"{name}.png") for name, mask in masks.items()]
        convert_all(partial(relabel_mask, table), jobs, workers, f"{maps.parent.name} {folder}")


def relabel_mask(table: np.ndarray, job: Job) -> None:
    """Convert a mask of VOC or SBD by a lookup table."""
    if job.sources[0].suffix == ".mat":
        relabel_matlab(table, job, "GTcls", "Segmentation")
    else:
        relabel(table, job)


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
        folders = [*SPLITS]
        if kind == "voc" and (root / folder_name / name / AUGMENTED).is_dir():
            folders.append(AUGMENTED)
        for folder in folders:
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
