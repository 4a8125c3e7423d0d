#!/usr/bin/env python
"""ADE20K SceneParse150: semantic label maps, instances and panoptic segments.

    python datasets/prepare_ade20k.py [--root datasets] [--workers N]
    python datasets/prepare_ade20k.py --check [--root datasets]

Unpack ADEChallengeData2016.zip in `ade/`, and annotations_instance.tar in
`ade/ADEChallengeData2016/`. Written beside them: `annotations_detectron2/`,
`ade20k_instance_{train,val}.json`, `ade20k_panoptic_{train,val}.json` and the folders of that name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hipie.atomic_file import open_replaced
from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.preparation.ade20k import ImageAnnotations, annotate
from hipie.data.preparation.checks import Check, check_label_maps
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import (
    Job,
    convert_all,
    is_up_to_date,
    lookup_table,
    parallel_map,
    relabel,
)
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError
from hipie.vocabularies.tables import load_classes

SOURCES = [
    DownloadSource(
        "images and classes",
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        "923 MB",
        "images for research; annotations BSD 3-clause",
        files=(
            "ade/ADEChallengeData2016/images/training",
            "ade/ADEChallengeData2016/images/validation",
            "ade/ADEChallengeData2016/annotations/training",
            "ade/ADEChallengeData2016/annotations/validation",
        ),
    ),
    DownloadSource(
        "objects",
        "http://sceneparsing.csail.mit.edu/data/ChallengeData2017/annotations_instance.tar",
        "91 MB",
        "BSD 3-clause",
        files=("ade/ADEChallengeData2016/annotations_instance",),
    ),
]
FOLDERS = {"train": "training", "val": "validation"}
PUBLISHED = {"train": 20_210, "val": 2_000}
IGNORE_LABEL = 255


def prepare(root: Path, workers: int) -> None:
    """Write all files of both splits."""
    dataset_root = root / "ade/ADEChallengeData2016"
    table = lookup_table([(0, IGNORE_LABEL), *((i + 1, i) for i in range(150))], 151)
    for split, folder in FOLDERS.items():
        records = load_label_maps(
            dataset_root / "annotations" / folder, dataset_root / "images" / folder
        )
        maps = [Path(record["sem_seg_file_name"]) for record in records]
        converted = dataset_root / "annotations_detectron2" / folder
        jobs = [Job((path,), converted / path.name) for path in maps]
        convert_all(partial(relabel, table), jobs, workers, f"classes of {split}")
        write_segments(dataset_root, split, maps, workers)


def write_segments(dataset_root: Path, split: str, maps: Sequence[Path], workers: int) -> None:
    """Write the panoptic maps of a split and both JSON files, unless they are up to date."""
    panoptic = dataset_root / f"ade20k_panoptic_{split}"
    jobs = [
        Job(
            (path, dataset_root / "annotations_instance" / FOLDERS[split] / path.name),
            panoptic / path.name,
        )
        for path in maps
    ]
    missing = next((s for job in jobs for s in job.sources if not s.is_file()), None)
    if missing is not None:
        raise MissingFileError(f"{missing}: there is no such file")
    targets = [panoptic.with_suffix(".json"), dataset_root / f"ade20k_instance_{split}.json"]
    sources = [source for job in jobs for source in job.sources]
    if all(is_up_to_date(file, sources) for file in targets) and all(
        j.target.is_file() for j in jobs
    ):
        return
    things = list(load_classes("ade20k_150").things)
    annotated = list(parallel_map(partial(annotate, things), jobs, workers, f"segments of {split}"))
    names = [path.stem for path in maps]
    write_json(targets[0], panoptic_content(names, annotated))
    write_json(targets[1], instance_content(names, annotated))


def images_of(names: Sequence[str], annotated: Sequence[ImageAnnotations]) -> list[dict[str, Any]]:
    """Return COCO's `images`; the id is the name."""
    return [
        {"id": name, "file_name": f"{name}.jpg", "width": item.size[0], "height": item.size[1]}
        for name, item in zip(names, annotated, strict=True)
    ]


def panoptic_content(names: Sequence[str], annotated: Sequence[ImageAnnotations]) -> dict[str, Any]:
    """Return the content of a COCO panoptic file."""
    classes = load_classes("ade20k_150")
    return {
        "images": images_of(names, annotated),
        "annotations": [
            {"image_id": name, "file_name": f"{name}.png", "segments_info": item.segments}
            for name, item in zip(names, annotated, strict=True)
        ],
        "categories": [
            {"id": number, "name": cls.name, "isthing": int(cls.kind == "thing")}
            for number, cls in zip(classes.ids, classes.vocabulary.classes, strict=True)
        ],
    }


def instance_content(names: Sequence[str], annotated: Sequence[ImageAnnotations]) -> dict[str, Any]:
    """Return the content of a COCO instance file."""
    classes = load_classes("ade20k_150")
    objects = [
        {"image_id": name, **annotation}
        for name, item in zip(names, annotated, strict=True)
        for annotation in item.objects
    ]
    return {
        "images": images_of(names, annotated),
        "annotations": [{"id": number, **fields} for number, fields in enumerate(objects, 1)],
        "categories": [
            {"id": number, "name": classes.vocabulary.classes[index].name}
            for number, index in classes.things.items()
        ],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with open_replaced(path) as stream:
        stream.write(json.dumps(content, separators=(",", ":")).encode())


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of classes, segments and objects of both splits."""
    dataset_root = root / "ade/ADEChallengeData2016"
    for split, folder in FOLDERS.items():
        images = dataset_root / "images" / folder
        load = partial(load_label_maps, dataset_root / "annotations_detectron2" / folder, images)
        labels = [*range(150), IGNORE_LABEL]
        count = PUBLISHED.get(split)
        yield f"classes of {split}", partial(check_label_maps, load, labels, count, workers)
        yield f"segments of {split}", partial(_count_segments, dataset_root, split, images)
        yield f"objects of {split}", partial(_count_objects, dataset_root, split, images)


def _count_segments(dataset_root: Path, split: str, images: Path) -> str:
    panoptic = dataset_root / f"ade20k_panoptic_{split}"
    ids = dict(load_classes("ade20k_150").contiguous)
    records = load_coco_panoptic(
        panoptic.with_suffix(".json"), panoptic, images, ids, overlapping_areas=True
    )
    return f"{sum(len(r['segments_info']) for r in records)} segments in {len(records)} images"


def _count_objects(dataset_root: Path, split: str, images: Path) -> str:
    ids = {number: i for i, number in enumerate(load_classes("ade20k_150").things)}
    records = load_coco_instances(dataset_root / f"ade20k_instance_{split}.json", images, ids)
    return f"{sum(len(r['annotations']) for r in records)} objects in {len(records)} images"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
