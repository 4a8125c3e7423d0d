#!/usr/bin/env python
"""COCO 2017: semantic maps from the panoptic ones.

    python datasets/prepare_coco.py [--root datasets] [--workers N]
    python datasets/prepare_coco.py --check [--root datasets]

Unpack everything under `coco/`: `train2017/`, `val2017/`, `annotations/`, `panoptic_train2017/`,
`panoptic_val2017/`. Splits without a JSON are skipped. Where Detectron2's
`annotations/panoptic_val2017_100.json` is, the maps of its 100 images are written to separate
folders.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check, check_label_maps, count_objects
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import Job, convert_all, link_image, relabel_panoptic
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError
from hipie.vocabularies.tables import load_classes

ADDRESS = "http://images.cocodataset.org"
FLICKR, ANNOTATIONS = "Flickr's terms", "CC BY 4.0"
SOURCES = [
    DownloadSource(
        "images", f"{ADDRESS}/zips/train2017.zip", "18 GB", FLICKR, files=("coco/train2017",)
    ),
    DownloadSource(
        "images", f"{ADDRESS}/zips/val2017.zip", "1 GB", FLICKR, files=("coco/val2017",)
    ),
    DownloadSource(
        "instances",
        f"{ADDRESS}/annotations/annotations_trainval2017.zip",
        "241 MB",
        ANNOTATIONS,
        files=(
            "coco/annotations/instances_train2017.json",
            "coco/annotations/instances_val2017.json",
        ),
    ),
    DownloadSource(
        "segments",
        f"{ADDRESS}/annotations/panoptic_annotations_trainval2017.zip",
        "821 MB; unpack its two archives of PNGs as well",
        ANNOTATIONS,
        files=(
            "coco/annotations/panoptic_train2017.json",
            "coco/annotations/panoptic_val2017.json",
            "coco/panoptic_train2017",
            "coco/panoptic_val2017",
        ),
    ),
    DownloadSource(
        "100 images of val",
        "https://dl.fbaipublicfiles.com/detectron2/annotations/coco/panoptic_val2017_100.json",
        "small",
        ANNOTATIONS,
        files=("coco/annotations/panoptic_val2017_100.json",),
    ),
]
# Name of the split -> folders of images, panoptic maps, semantic maps to write.
SPLITS = {
    "train2017": ("train2017", "panoptic_train2017", "panoptic_semseg_train2017"),
    "val2017": ("val2017", "panoptic_val2017", "panoptic_semseg_val2017"),
    "val2017_100": ("val2017", "panoptic_val2017", "panoptic_thing_stuff_val2017_100"),
}
PUBLISHED = {"train2017": 118_287, "val2017": 5_000, "val2017_100": 100}
IGNORE_LABEL = 255


def prepare(root: Path, workers: int) -> None:
    """Write the semantic maps of every split that has a JSON."""
    coco_root = root / "coco"
    contiguous = load_classes("coco_panoptic").contiguous
    splits = _present(coco_root)
    if not splits:
        raise MissingFileError(f"{coco_root}/annotations: there is no panoptic_val2017.json in it")
    for split in splits:
        images, panoptic, semantic = SPLITS[split]
        file = coco_root / "annotations" / f"panoptic_{split}.json"
        records = load_coco_panoptic(
            file, coco_root / panoptic, coco_root / images, dict(contiguous)
        )
        jobs = [
            Job(
                (Path(record["pan_seg_file_name"]),),
                coco_root / semantic / Path(record["pan_seg_file_name"]).name,
                [(segment["id"], segment["category_id"]) for segment in record["segments_info"]],
            )
            for record in records
        ]
        convert_all(relabel_panoptic, jobs, workers, semantic)
        if panoptic != f"panoptic_{split}":
            copies = [
                Job(job.sources, coco_root / f"panoptic_{split}" / job.target.name) for job in jobs
            ]
            convert_all(link_image, copies, workers, f"panoptic_{split}")


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of instances and semantic maps of the existing splits."""
    coco_root = root / "coco"
    labels = [*range(133), IGNORE_LABEL]
    for split in _present(coco_root) or ["val2017"]:
        images, _, semantic = SPLITS[split]
        load = partial(_records, coco_root, split, coco_root / images, coco_root / semantic)
        yield (
            f"semantic maps of {split}",
            partial(check_label_maps, load, labels, PUBLISHED.get(split), workers),
        )
        file = coco_root / "annotations" / f"instances_{split}.json"
        if file.is_file():
            yield f"instances of {split}", partial(_count_objects, file, coco_root / images)


def _present(coco_root: Path) -> list[str]:
    return [
        split
        for split in SPLITS
        if (coco_root / "annotations" / f"panoptic_{split}.json").is_file()
    ]


def _records(coco_root: Path, split: str, images: Path, semantic: Path) -> list[dict]:
    """Return the records of the panoptic JSON; raise if one has no maps."""
    file = coco_root / "annotations" / f"panoptic_{split}.json"
    contiguous = dict(load_classes("coco_panoptic").contiguous)
    records = load_coco_panoptic(
        file, coco_root / f"panoptic_{split}", images, contiguous, semantic
    )
    for record in records:
        for key in ("pan_seg_file_name", "sem_seg_file_name"):
            if not Path(record[key]).is_file():
                raise DatasetError(f"{record[key]}: there is no such label map")
    return records


def _count_objects(file: Path, images: Path) -> str:
    ids = {c["id"]: i for i, c in enumerate(read_json(file, ("categories",))["categories"])}
    return count_objects(load_coco_instances(file, images, ids))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
