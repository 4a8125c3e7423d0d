#!/usr/bin/env python
"""Co-saliency data sets CoCA, CoSal2015, CoSOD3k; for training DUTS_class, COCO9213: `cosod/`.

    python datasets/prepare_cosod.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_cosod.py --check [--root datasets]

DOWNLOADS contains a folder or zip archive with the name of each data set (existing ones are
prepared), with images in `image/<group>` and masks in `binary/<group>`, `gt/<group>` or
`GroundTruth/<group>`. All become `image/<group>/<name>.jpg` and `gt/<group>/<name>.png`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from hipie.atomic_file import open_replaced
from hipie.data.datasets.cosaliency import IMAGE_SUFFIXES, load_cosaliency
from hipie.data.image_io import ImageError, open_image_bytes
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check
from hipie.data.preparation.cli import run
from hipie.data.preparation.sources import DownloadSource, SourceError, SourceFiles

SOURCES = [
    DownloadSource(
        "CoCA", "http://zhaozhang.net/coca.html", "1,295 images", "see there", files=("cosod/CoCA",)
    ),
    DownloadSource(
        "CoSal2015",
        "https://github.com/zzhanghub/gicd",
        "2,015 images",
        "see there",
        files=("cosod/CoSal2015",),
    ),
    DownloadSource(
        "CoSOD3k",
        "http://dpfan.net/CoSOD3K/",
        "3,316 images",
        "see there",
        files=("cosod/CoSOD3k",),
    ),
    DownloadSource(
        "DUTS_class",
        "https://github.com/zzhanghub/gicd",
        "for training",
        "see there",
        files=("cosod/DUTS_class",),
    ),
    DownloadSource(
        "COCO9213",
        "https://github.com/blanclist/ICNet",
        "9,213 images, to train",
        "COCO's",
        files=("cosod/COCO9213",),
    ),
]
DATASETS = {
    "CoCA": (80, 1_295),
    "CoSal2015": (50, 2_015),
    "CoSOD3k": (160, 3_316),
    "DUTS_class": None,
    "COCO9213": None,
}
"""Published numbers of groups and images; None = any."""
IMAGE_FOLDERS = ("image", "images", "img")
MASK_FOLDERS = ("binary", "gt", "groundtruth", "gts")


def prepare(source_files: SourceFiles, root: Path) -> None:
    """Copy the data sets that the downloads contain."""
    copied = 0
    for name in DATASETS:
        images = source_files.below(*(f"{name}/{folder}" for folder in IMAGE_FOLDERS))
        masks = source_files.below(*(f"{name}/{folder}" for folder in MASK_FOLDERS))
        if not images:
            continue
        copied += 1
        copy_dataset(source_files, root / "cosod" / name, images, masks)
    if not copied:
        raise SourceError(
            f"{source_files.folder}: there is no folder image/ of {', '.join(DATASETS)}"
        )


def copy_dataset(
    source_files: SourceFiles, target_root: Path, images: dict[str, str], masks: dict[str, str]
) -> None:
    """Copy the images and masks of a data set; other files are skipped."""
    mask_of = {PurePosixPath(path).with_suffix(""): name for path, name in masks.items()}
    pairs = []
    for path, name in sorted(images.items()):
        relative = PurePosixPath(path)
        if relative.suffix.lower() not in IMAGE_SUFFIXES or len(relative.parts) != 2:
            continue
        if relative.with_suffix("") not in mask_of:
            raise SourceError(f"{source_files.folder}: {name} has no mask")
        pairs.append((name, target_root / "image" / relative))
        mask, target = (
            mask_of[relative.with_suffix("")],
            target_root / "gt" / relative.with_suffix(".png"),
        )
        if mask.lower().endswith(".png"):
            pairs.append((mask, target))
        elif not target.is_file():
            write_png(source_files, mask, target)
    source_files.copy_all(pairs, target_root.name)


def write_png(source_files: SourceFiles, name: str, target: Path) -> None:
    """Convert a mask of another format to a grey PNG.

    Raises:
        SourceError: if it is not an image.
    """
    with source_files.open(name) as stream:
        content = stream.read()
    try:
        with open_image_bytes(content, name, "mask") as image:
            grey = image.convert("L")
    except ImageError as error:
        raise SourceError(f"{source_files.folder}: {error}") from error
    with open_replaced(target) as stream:
        grey.save(stream, format="PNG")


def checks(root: Path) -> Iterator[Check]:
    """Yield the checks of the existing data sets; of all test sets if there is none."""
    existing = [name for name in DATASETS if (root / "cosod" / name).is_dir()]
    for name in existing or [name for name, published in DATASETS.items() if published]:
        yield name, partial(_count, root / "cosod" / name, DATASETS[name])


def _count(folder: Path, published: tuple[int, int] | None) -> str:
    records = load_cosaliency(folder)
    groups = len({record["group_name"] for record in records})
    if published and (groups, len(records)) != published:
        raise DatasetError(
            f"{groups} groups with {len(records)} images; published are {published[0]} with "
            f"{published[1]}"
        )
    return f"{groups} groups with {len(records)} images"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
