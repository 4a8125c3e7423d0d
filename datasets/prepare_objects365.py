#!/usr/bin/env python
"""Objects365, versions 1 and 2: annotations with the paths of images on disk.

    python datasets/prepare_objects365.py [--root datasets]
    python datasets/prepare_objects365.py --check [--root datasets]

Version 2: unpack the images as `Objects365/images/{train,val}/patch*/*.jpg` (or without the
folders of patches), and store `zhiyuan_objv2_{train,val}.json` in `instance365/`. Written beside
them: `zhiyuan_objv2_{train,val}_new.json`, without the images that cannot be downloaded. HIPIE's
`instance_365_{train,val}.json`, which have masks, are used as they are.
Version 1: `objects365/{train,val}/` and `objects365/annotations/objects365_{train,val}.json`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from hipie.atomic_file import open_replaced
from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.io.fields import identifier, images_by_id
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check, count_objects
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import is_up_to_date
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError
from hipie.vocabularies.tables import load_classes

SOURCES = [
    DownloadSource(
        "Objects365",
        "https://www.objects365.org/download.html",
        "version 1 about 90 GB, version 2 about 700 GB",
        "annotations CC BY 4.0, images under Flickr's terms",
        files=(
            "Objects365/images/train",
            "Objects365/images/val",
            "instance365/zhiyuan_objv2_train.json",
            "instance365/zhiyuan_objv2_val.json",
            "objects365/train",
            "objects365/val",
            "objects365/annotations/objects365_train.json",
            "objects365/annotations/objects365_val.json",
        ),
    ),
    DownloadSource(
        "HIPIE's masks of version 2",
        "https://github.com/berkeley-hipie/HIPIE",
        "optional",
        "MIT",
        files=("instance365/instance_365_train.json", "instance365/instance_365_val.json"),
    ),
]
SPLITS = ("train", "val")
MAX_MISSING_SHARE = 0.01
# Annotations -> image folder, vocabulary, published number of images (None = any).
FILES = {
    "instance365/zhiyuan_objv2_train_new.json": ("Objects365/images/train", "obj365v2", None),
    "instance365/zhiyuan_objv2_val_new.json": ("Objects365/images/val", "obj365v2", None),
    "instance365/instance_365_train.json": ("Objects365/images/train", "obj365v2", None),
    "instance365/instance_365_val.json": ("Objects365/images/val", "obj365v2", None),
    "objects365/annotations/objects365_train.json": ("objects365/train", "obj365v1", 608_606),
    "objects365/annotations/objects365_val.json": ("objects365/val", "obj365v1", 30_000),
}


def prepare(root: Path, _workers: int) -> None:
    """Write the annotations of the existing splits of version 2."""
    existing = [root / file for file in FILES if (root / file).is_file()]
    for split in SPLITS:
        source = root / "instance365" / f"zhiyuan_objv2_{split}.json"
        if source.is_file():
            existing.append(source)
            write_paths_on_disk(source, root / "Objects365/images" / split)
    if not existing:
        raise MissingFileError(f"{root}: there is neither {' nor '.join(FILES)}")


def write_paths_on_disk(source: Path, image_root: Path) -> None:
    """Write `..._new.json` beside the file, unless it is newer than file and images.

    Raises:
        FileNotFoundError: if there is no such folder.
        DatasetError: if more than 1 % of the images are missing.
    """
    target = source.with_name(f"{source.stem}_new.json")
    folders = [Path(folder) for folder, _, _ in os.walk(image_root)]
    if not folders:
        raise MissingFileError(f"{image_root}: there is no such folder")
    if is_up_to_date(target, [source, *folders]):
        return
    names_on_disk = {
        f"{folder.relative_to(image_root).as_posix()}/{name}".removeprefix("./")
        for folder in tqdm(folders, desc=f"images of {image_root.name}", unit="folder", leave=False)
        for name in os.listdir(folder)
    }
    content = read_json(source, ("images", "annotations", "categories"))
    existing, missing = [], []
    missing_ids: set[int | str] = set()
    for number, image in images_by_id(source, content).items():
        parts = PurePosixPath(image["file_name"]).parts
        name = next(
            (path for path in ("/".join(parts[-2:]), parts[-1]) if path in names_on_disk), None
        )
        if name is None:
            missing.append(image["file_name"])
            missing_ids.add(number)
        else:
            existing.append({**image, "file_name": name})
    if len(missing) > MAX_MISSING_SHARE * len(content["images"]):
        raise DatasetError(
            f"{source}: the image {missing[0]} and {len(missing) - 1} others of "
            f"{len(content['images'])} are not in {image_root}"
        )
    content["images"] = existing
    content["annotations"] = [
        item for item in content["annotations"] if not _is_of(item, missing_ids)
    ]
    with open_replaced(target) as stream:
        stream.write(json.dumps(content, separators=(",", ":")).encode())
    if missing:
        print(f"{target}: {len(missing)} images are missing and were skipped")


def _is_of(annotation: Any, images: set[int | str]) -> bool:
    return isinstance(annotation, dict) and identifier(annotation.get("image_id")) in images


def checks(root: Path, _workers: int) -> Iterator[Check]:
    """Yield the checks of the existing files; of version 2 if there is none."""
    existing = {file: row for file, row in FILES.items() if (root / file).is_file()}
    for file in existing or list(FILES)[:2]:
        yield Path(file).stem, partial(_count, root, file)


def _count(root: Path, file: str) -> str:
    images, vocabulary, published = FILES[file]
    contiguous = dict(load_classes(vocabulary).contiguous)
    return count_objects(load_coco_instances(root / file, root / images, contiguous), published)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
