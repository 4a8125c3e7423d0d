#!/usr/bin/env python
"""Ref-ZOM, expressions with one target, several or none: `ref-zom/`.

    python datasets/prepare_refzom.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_refzom.py --check [--root datasets]

DOWNLOADS contains `Ref-ZOM(final).p` (or `refs(final).p`) and `instances.json`, or a zip archive
with them. Ref-ZOM expects COCO's `train2014` and `val2014` in one folder; here they are separate
(`coco/train2014`, `coco/val2014`), and `instances.json` is written with the folder of each image.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.atomic_file import open_replaced
from hipie.data.datasets.refcoco import load_refcoco
from hipie.data.io.fields import images_by_id
from hipie.data.io.json_file import read_json
from hipie.data.preparation.checks import Check, count_expressions
from hipie.data.preparation.cli import run
from hipie.data.preparation.label_maps import is_up_to_date
from hipie.data.preparation.sources import DownloadSource, SourceError, SourceFiles

COCO = "http://images.cocodataset.org/zips"
SOURCES = [
    DownloadSource(
        "Ref-ZOM",
        "https://github.com/toggle1995/RIS-DMMI",
        "two files",
        "see there",
        files=("ref-zom/refs(final).p", "ref-zom/instances.json"),
    ),
    DownloadSource(
        "images",
        f"{COCO}/train2014.zip and val2014.zip",
        "19 GB",
        "Flickr",
        files=("coco/train2014", "coco/val2014"),
    ),
]
FOLDERS = {"COCO_train2014_": "train2014", "COCO_val2014_": "val2014"}


def prepare(source_files: SourceFiles, root: Path) -> None:
    """Copy the refs, and write `instances.json` with the folder of each image."""
    dataset_root = root / "ref-zom"
    refs = source_files.find("refs(final).p", "Ref-ZOM(final).p", "ref-zom(final).p")
    source_files.copy(refs, dataset_root / "refs(final).p")
    as_distributed = dataset_root / "instances_as_distributed.json"
    source_files.copy(source_files.find("ref-zom/instances.json", "instances.json"), as_distributed)
    target = dataset_root / "instances.json"
    if is_up_to_date(target, [as_distributed]):
        return
    content = read_json(as_distributed, ("images", "annotations"))
    images_by_id(as_distributed, content)
    for image in content["images"]:
        image["file_name"] = with_folder(image["file_name"], as_distributed)
    with open_replaced(target) as stream:
        stream.write(json.dumps(content, separators=(",", ":")).encode())


def with_folder(name: str, file: Path) -> str:
    """Return an image's name with COCO's folder.

    Raises:
        SourceError: if it is not the name of an image of COCO 2014.
    """
    name_only = name.rsplit("/", 1)[-1]
    for start, folder in FOLDERS.items():
        if name_only.startswith(start):
            return f"{folder}/{name_only}"
    raise SourceError(f"{file}: the image {name} is in neither train2014 nor val2014")


def checks(root: Path) -> Iterator[Check]:
    """Yield the checks of both splits."""
    for split in ("train", "test"):
        yield f"Ref-ZOM {split}", partial(_count, root, split)


def _count(root: Path, split: str) -> str:
    dataset_root = root / "ref-zom"
    files = dataset_root / "refs(final).p", dataset_root / "instances.json"
    return count_expressions(load_refcoco(*files, root / "coco", split))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
