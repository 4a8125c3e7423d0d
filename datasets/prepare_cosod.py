#!/usr/bin/env python
"""Co-saliency sets, CoCA, CoSal2015 and CoSOD3k, and DUTS_class and COCO9213 to train on: `cosod/`.

    python datasets/prepare_cosod.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_cosod.py --check [--root datasets]

DOWNLOADS holds a folder or a zip archive for each set, called like it (those that are there are
prepared), with images in `image/<group>` and masks in `binary/<group>`, `gt/<group>` or
`GroundTruth/<group>`. All become `image/<group>/<name>.jpg` and `gt/<group>/<name>.png`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from hipie.data.datasets.cosaliency import IMAGE_SUFFIXES, load_cosaliency
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check
from hipie.data.preparation.cli import run
from hipie.data.preparation.sources import DownloadSource, SourceError, SourceFiles, atomic_write

SOURCES = [
    DownloadSource("CoCA", "http://zhaozhang.net/coca.html", "1,295 images", "see there"),
    DownloadSource("CoSal2015", "https://github.com/zzhanghub/gicd", "2,015 images", "see there"),
    DownloadSource("CoSOD3k", "http://dpfan.net/CoSOD3K/", "3,316 images", "see there"),
    DownloadSource("DUTS_class", "https://github.com/zzhanghub/gicd", "for training", "see there"),
    DownloadSource(
        "COCO9213", "https://github.com/blanclist/ICNet", "9,213 images, to train", "COCO's"
    ),
]
SETS = {
    "CoCA": (80, 1_295),
    "CoSal2015": (50, 2_015),
    "CoSOD3k": (160, 3_316),
    "DUTS_class": None,
    "COCO9213": None,
}
"""Groups and images, as published; of training sets whatever is there."""
IMAGE_FOLDERS = ("image", "images", "img")
MASK_FOLDERS = ("binary", "gt", "groundtruth", "gts")


def prepare(delivery: SourceFiles, root: Path) -> None:
    """Copy the sets that are there."""
    found = 0
    for name in SETS:
        images = delivery.below(*(f"{name}/{folder}" for folder in IMAGE_FOLDERS))
        masks = delivery.below(*(f"{name}/{folder}" for folder in MASK_FOLDERS))
        if not images:
            continue
        found += 1
        copy_set(delivery, root / "cosod" / name, images, masks)
    if not found:
        raise SourceError(f"{delivery.folder}: there is none of {', '.join(SETS)} with an image/")


def copy_set(
    delivery: SourceFiles, here: Path, images: dict[str, str], masks: dict[str, str]
) -> None:
    """Copy a set's images with their masks; notes and other files are left out."""
    mask_of = {PurePosixPath(path).with_suffix(""): name for path, name in masks.items()}
    pairs = []
    for path, name in sorted(images.items()):
        place = PurePosixPath(path)
        if place.suffix.lower() not in IMAGE_SUFFIXES or len(place.parts) != 2:
            continue
        if place.with_suffix("") not in mask_of:
            raise SourceError(f"{delivery.folder}: {name} has no mask")
        pairs.append((name, here / "image" / place))
        mask, target = mask_of[place.with_suffix("")], here / "gt" / place.with_suffix(".png")
        if mask.lower().endswith(".png"):
            pairs.append((mask, target))
        elif not target.is_file():
            write_png(delivery, mask, target)
    delivery.copy_all(pairs, here.name)


def write_png(delivery: SourceFiles, name: str, target: Path) -> None:
    """Write a mask that comes in another format as a grey PNG.

    Raises:
        SourceError: if it is no image.
    """
    with delivery.open(name) as stream:
        content = stream.read()
    try:
        with Image.open(io.BytesIO(content)) as image, atomic_write(target) as stream:
            image.convert("L").save(stream, format="PNG")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise SourceError(f"{delivery.folder}: {name} is no image ({error})") from error


def checks(root: Path) -> Iterator[Check]:
    """The sets that are there; all, if none is."""
    there = [name for name in SETS if (root / "cosod" / name).is_dir()]
    for name in there or [name for name, published in SETS.items() if published]:
        yield name, partial(_count, root / "cosod" / name, SETS[name])


def _count(folder: Path, published: tuple[int, int] | None) -> str:
    records = load_cosaliency(folder)
    groups = len({record["group_name"] for record in records})
    if published and (groups, len(records)) != published:
        raise DatasetError(
            f"{groups} groups with {len(records)} images; published are {published[0]} with "
            f"{published[1]}"
        )
    return f"{groups} groups with {len(records)} images"


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    return run(words, __doc__.split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
