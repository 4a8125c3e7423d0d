#!/usr/bin/env python
"""RefCOCO, RefCOCO+ and RefCOCOg: `refcoco/`, `refcoco+/`, `refcocog/` and `annotations/`.

    python datasets/prepare_refcoco.py --source DOWNLOADS [--root datasets]
    python datasets/prepare_refcoco.py --check [--root datasets]

DOWNLOADS contains refcoco.zip, refcoco+.zip and refcocog.zip, or their contents. The pickles and
`instances.json` are copied; the files of HIPIE and UNINEXT are made from them, with one entry of
`images` per object (`refcoco-unc`, `refcocoplus-unc`, `refcocog-umd`, `refcocog-google`),
and all training splits joined (`refcoco-mixed`), also without the images of
validation and test splits (`..._filter.json`). The images are COCO's `coco/train2014`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from tqdm import tqdm

from hipie.atomic_file import open_replaced
from hipie.data.datasets.refcoco import existing_splits, load_refcoco
from hipie.data.datasets.uninext_refer import load_uninext_refer
from hipie.data.io.json_file import read_json
from hipie.data.io.rle import to_rle
from hipie.data.preparation.checks import Check, count_expressions
from hipie.data.preparation.cli import run
from hipie.data.preparation.label_maps import is_up_to_date
from hipie.data.preparation.sources import DownloadSource, SourceError, SourceFiles

ADDRESS = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
SOURCES = [
    DownloadSource(
        "RefCOCO",
        f"{ADDRESS}/refcoco.zip",
        "50,000 refs, 142,210 expressions",
        "Apache 2.0",
        files=("refcoco/refs(unc).p", "refcoco/instances.json"),
    ),
    DownloadSource(
        "RefCOCO+",
        f"{ADDRESS}/refcoco+.zip",
        "about as many",
        "Apache 2.0",
        files=("refcoco+/refs(unc).p", "refcoco+/instances.json"),
    ),
    DownloadSource(
        "RefCOCOg",
        f"{ADDRESS}/refcocog.zip",
        "about 50,000 refs",
        "Apache 2.0",
        files=("refcocog/refs(umd).p", "refcocog/refs(google).p", "refcocog/instances.json"),
    ),
    DownloadSource(
        "images",
        "http://images.cocodataset.org/zips/train2014.zip",
        "13 GB",
        "Flickr",
        files=("coco/train2014",),
    ),
]
# Folder, name of the split (`refs(<name>).p`), HIPIE's name, splits.
UNC = ("train", "val", "testA", "testB")
UMD = ("train", "val", "test")
DATASETS = (
    ("refcoco", "unc", "refcoco-unc", UNC),
    ("refcocog", "umd", "refcocog-umd", UMD),
    ("refcoco+", "unc", "refcocoplus-unc", UNC),
    ("refcocog", "google", "refcocog-google", ("val",)),
)
MIXED = ("refcoco-unc", "refcocog-umd", "refcocoplus-unc")
CATEGORIES = [{"supercategory": "object", "id": 1, "name": "object"}]
PUBLISHED = {
    ("refcoco", "unc", "train"): (42_404, 120_624),
    ("refcoco", "unc", "val"): (3_811, 10_834),
    ("refcoco", "unc", "testA"): (1_975, 5_657),
    ("refcoco", "unc", "testB"): (1_810, 5_095),
}


def prepare(source_files: SourceFiles, root: Path) -> None:
    """Copy the files that are there as distributed, and write those of HIPIE.

    Raises:
        SourceError: if none of the data sets is there.
    """
    for folder in ("refcoco", "refcoco+", "refcocog"):
        names = [f"{folder}/refs({split_name}).p" for split_name in ("unc", "umd", "google")]
        for name in (*names, f"{folder}/instances.json"):
            if source_files.ending_with(name):
                source_files.copy(source_files.find(name), root / name)
    rows = present(root)
    if not rows:
        raise SourceError(
            f"{source_files.folder}: there is neither refcoco, refcoco+ nor refcocog, each with "
            "instances.json and refs(...).p"
        )
    for folder, split_name, name, splits in rows:
        for split in tqdm(splits, desc=name, unit="split", leave=False):
            write_objects(root, folder, split_name, name, split)
    if has_mixed(rows):
        write_mixed(root)


Row = tuple[str, str, str, tuple[str, ...]]


def has_mixed(rows: Sequence[Row]) -> bool:
    """Whether the training splits of all three data sets are there, which are joined."""
    return set(MIXED) <= {name for _, _, name, splits in rows if "train" in splits}


def present(root: Path) -> list[Row]:
    """Return the rows of `DATASETS` whose files are there, with the splits that they have."""
    rows = []
    for folder, split_name, name, splits in DATASETS:
        refs, instances = root / folder / f"refs({split_name}).p", root / folder / "instances.json"
        if refs.is_file() and instances.is_file():
            existing = existing_splits(refs, splits)
            rows.append((folder, split_name, name, existing))
    return rows


def write_objects(root: Path, folder: str, split_name: str, name: str, split: str) -> None:
    """Write HIPIE's file of one split unless it is up to date."""
    refs, instances = root / folder / f"refs({split_name}).p", root / folder / "instances.json"
    target = root / "annotations" / name / f"instances_{split}.json"
    if is_up_to_date(target, (refs, instances)):
        return
    images, annotations = [], []
    for record, annotation, expressions in objects_of(
        load_refcoco(refs, instances, "", split, text_field="sent")
    ):
        number = len(images) + 1
        fields = {key: record[key] for key in ("file_name", "height", "width")}
        origin = {"original_id": record["image_id"], "ref_id": expressions[0]["ref_id"]}
        texts = [expression["expression"] for expression in expressions]
        images.append({**fields, "id": number, "expressions": texts, **origin})
        rle = to_rle(annotation["segmentation"], record["height"], record["width"])
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": annotation.get("bbox") or mask_util.toBbox(rle).tolist(),
                "segmentation": annotation["segmentation"],
                "area": int(mask_util.area(rle)),
            }
        )
    write_coco(target, images, annotations)


def objects_of(
    records: list[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
    """Yield record, annotation and expressions of every ref with one target, sorted by ref id."""
    refs: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for record in records:
        for expression in record["expressions"]:
            refs.setdefault(expression["ref_id"], (record, []))[1].append(expression)
    for number in sorted(refs):
        record, expressions = refs[number]
        if len(expressions[0]["targets"]) == 1:
            yield record, record["annotations"][expressions[0]["targets"][0]], expressions


def write_mixed(root: Path) -> None:
    """Write the joined training splits, with and without the images of other splits."""
    annotation_root = root / "annotations"
    evaluation_files = [
        annotation_root / name / f"instances_{split}.json"
        for _, _, name, splits in DATASETS
        for split in splits
        if split != "train" and name in MIXED
        if (annotation_root / name / f"instances_{split}.json").is_file()
    ]
    train_files = [annotation_root / name / "instances_train.json" for name in MIXED]
    targets = [
        annotation_root / "refcoco-mixed" / f"instances_train{end}.json" for end in ("", "_filter")
    ]
    if all(is_up_to_date(target, [*evaluation_files, *train_files]) for target in targets):
        return
    tested = {
        image["file_name"] for file in evaluation_files for image in read_json(file)["images"]
    }
    outputs: list[tuple[list, list]] = [([], []), ([], [])]
    for file in train_files:
        content = read_json(file, ("images", "annotations"))
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            for output in outputs if image["file_name"] not in tested else outputs[:1]:
                number = len(output[0]) + 1
                output[0].append({**image, "id": number})
                output[1].append({**annotation, "id": number, "image_id": number})
    for target, (images, objects) in zip(targets, outputs, strict=True):
        write_coco(target, images, objects)


def write_coco(target: Path, images: list[dict], annotations: list[dict]) -> None:
    """Write a COCO file atomically."""
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    with open_replaced(target) as stream:
        stream.write(json.dumps(content, separators=(",", ":")).encode())


def checks(root: Path) -> Iterator[Check]:
    """Yield the checks of the existing splits in both formats; of all if there is none."""
    image_root = root / "coco/train2014"
    rows = present(root) or DATASETS
    for folder, split_name, name, splits in rows:
        refs, instances = root / folder / f"refs({split_name}).p", root / folder / "instances.json"
        for split in splits:
            published = PUBLISHED.get((folder, split_name, split))
            yield (
                f"{folder} {split_name} {split}",
                partial(_count_refs, refs, instances, image_root, split, published),
            )
            file = root / "annotations" / name / f"instances_{split}.json"
            yield f"{name} {split}", partial(_count_objects, file, image_root)
    if has_mixed(rows):
        for end in ("", "_filter"):
            file = root / "annotations/refcoco-mixed" / f"instances_train{end}.json"
            yield f"refcoco-mixed{end}", partial(_count_objects, file, image_root)


def _count_refs(
    refs: Path, instances: Path, image_root: Path, split: str, published: tuple[int, int] | None
) -> str:
    return count_expressions(load_refcoco(refs, instances, image_root, split), published)


def _count_objects(file: Path, image_root: Path) -> str:
    return count_expressions(load_uninext_refer(file, image_root))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
