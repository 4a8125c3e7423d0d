"""Small trees of the public data sets, in the formats that they have on disk.

Every image is 64 wide and 48 high. A label map has one value left of column 32, another one right
of it, and "no label" in the first four rows; an object is the rectangle of `POLYGON`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image

HEIGHT, WIDTH = 48, 64
POLYGON = [8.0, 10.0, 24.0, 10.0, 24.0, 30.0, 8.0, 30.0]
BOX = [8.0, 10.0, 16.0, 20.0]
AREA = 320
HALF = (HEIGHT - 4) * WIDTH // 2

SEGINW = [
    "Airplane-Parts",
    "Bottles",
    "Brain-Tumor",
    "Chicken",
    "Cows",
    "Electric-Shaver",
    "Elephants",
    "Fruits",
    "Garbage",
    "Ginger-Garlic",
    "Hand",
    "Hand-Metal",
    "House-Parts",
    "HouseHold-Items",
    "Nutterfly-Squireel",
    "Phones",
    "Poles",
    "Puppies",
    "Rail",
    "Salmon-Fillet",
    "Strawberry",
    "Tablets",
    "Toolkits",
    "Trash",
    "Watermelon",
]
DOG_HEAD = 65
ADE_STUFF = [0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54]
ADE_STUFF += [59, 60, 61, 63, 68, 77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113]
ADE_STUFF += [114, 117, 122, 128, 131, 140, 141, 145]
ADE_THINGS = set(range(150)) - set(ADE_STUFF)


def write_image(path: Path) -> None:
    """An image with some texture."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([rows * 5, columns * 4, (rows + columns) * 2], axis=2).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def halves(left: int, right: int, nothing: int, dtype: type = np.uint8) -> np.ndarray:
    """A label map."""
    labels = np.full((HEIGHT, WIDTH), nothing, dtype=dtype)
    labels[4:, : WIDTH // 2], labels[4:, WIDTH // 2 :] = left, right
    return labels


def label_map(path: Path, labels: np.ndarray) -> None:
    """Write a label map."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def image_entry(number: int | str, file_name: str) -> dict[str, Any]:
    """An entry of COCO's `images`."""
    return {"id": number, "file_name": file_name, "height": HEIGHT, "width": WIDTH}


def instances(
    file: Path,
    folder: Path,
    names: Sequence[str],
    categories: dict[int, str],
    classes: Sequence[int],
    masks: bool = True,
    numbers: Sequence[Any] | None = None,
) -> None:
    """COCO instances: each image shows the rectangle once for each of `classes`."""
    numbers = numbers or range(1, len(names) + 1)
    annotations: list[dict[str, Any]] = []
    for number, name in zip(numbers, names, strict=True):
        write_image(folder / name)
        for category in classes:
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            shape = {"segmentation": [POLYGON]} if masks else {}
            annotations.append({**one, "bbox": BOX, "area": AREA, "iscrowd": 0, **shape})
    write_json(
        file,
        {
            "images": [image_entry(i, n) for i, n in zip(numbers, names, strict=True)],
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in categories.items()],
        },
    )


def panoptic(
    place: Path,
    name: str,
    entries: Sequence[tuple[Any, str]],
    segments: Sequence[tuple[int, int]],
    categories: list[dict[str, Any]],
) -> None:
    """COCO panoptic: `segments` are (id, category) of the left and of the right half."""
    ids = halves(segments[0][0], segments[1][0], 0, np.uint32)
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2).astype(np.uint8)
    annotations = []
    for number, file_name in entries:
        png = f"{Path(file_name).stem}.png"
        label_map(place / name / png, colours)
        info = [
            {
                "id": segment,
                "category_id": category,
                "area": HALF,
                "bbox": [i * WIDTH // 2, 4, WIDTH // 2, HEIGHT - 4],
                "iscrowd": 0,
            }
            for i, (segment, category) in enumerate(segments)
        ]
        annotations.append({"image_id": number, "file_name": png, "segments_info": info})
    content = {"annotations": annotations, "categories": categories}
    content["images"] = [image_entry(number, file_name) for number, file_name in entries]
    folder = place / "annotations" if place.name == "coco" else place
    write_json(folder / f"{name}.json", content)


def coco(root: Path, split: str = "val") -> None:
    """COCO 2017, panoptic and semantic: a person (1) left, sky (187) right."""
    place, names = root / "coco", ["000000000139.jpg", "000000000285.jpg"]
    things = {c["id"]: c["name"] for c in COCO_CATEGORIES if c["isthing"]}
    file = place / f"annotations/instances_{split}2017.json"
    instances(file, place / f"{split}2017", names, things, [1], numbers=[139, 285])
    categories = [{k: c[k] for k in ("id", "name", "isthing")} for c in COCO_CATEGORIES]
    entries = list(zip([139, 285], names, strict=True))
    panoptic(place, f"panoptic_{split}2017", entries, [(1000, 1), (70000, 187)], categories)
    order = [c["id"] for c in COCO_CATEGORIES]
    for name in names:
        stem = Path(name).stem
        labels = halves(order.index(1), order.index(187), 255)
        label_map(place / f"panoptic_semseg_{split}2017/{stem}.png", labels)


def ade20k(root: Path) -> None:
    """SceneParse150 val: a bed (7) left, sky (2) right; the full set: 846 left, 300 right."""
    place, name = root / "ade/ADEChallengeData2016", "ADE_val_00000001"
    things = {i: f"class {i}" for i in sorted(ADE_THINGS)}
    file, images = place / "ade20k_instance_val.json", place / "images/validation"
    instances(file, images, [f"{name}.jpg"], things, [7], numbers=[name])
    categories = [{"id": i, "name": f"{i}", "isthing": int(i in ADE_THINGS)} for i in range(150)]
    entry = [(name, f"{name}.jpg")]
    panoptic(place, "ade20k_panoptic_val", entry, [(256, 7), (2, 2)], categories)
    label_map(place / f"annotations_detectron2/validation/{name}.png", halves(7, 2, 255))
    full = root / "ade/ADE20K_2021_17_01"
    write_image(full / f"images_detectron2/validation/{name}.jpg")
    labels = halves(846, 300, 65535, np.uint16)
    label_map(full / f"annotations_detectron2/validation/{name}.tif", labels)


def pascal(root: Path) -> None:
    """VOC and Context val, Pascal parts val and training, and Cityscapes parts val.

    Panoptic parts: the head of a dog (12) left, sky (84) right; the head of a person (24) left, sky
    (23) right.
    """
    voc, context = root / "pascal_voc_d2", root / "pascal_ctx_d2"
    write_image(voc / "images/validation/2007_000033.jpg")
    label_map(voc / "annotations_pascal21/validation/2007_000033.png", halves(0, 20, 255))
    label_map(voc / "annotations_pascal20/validation/2007_000033.png", halves(255, 19, 255))
    write_image(context / "images/validation/2008_000002.jpg")
    label_map(context / "annotations_ctx59/validation/2008_000002.png", halves(58, 1, 255))
    label_map(
        context / "annotations_ctx459/validation/2008_000002.tif",
        halves(458, 3, 65535, np.uint16),
    )
    for name in ("2008_000003", "2008_000008", "2009_000001"):
        write_image(root / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg")
    labels = root / "pascal_parts/labels"
    for folder, name in (("training", "2008_000003"), ("validation", "2008_000008")):
        parts = halves(DOG_HEAD, 199, 0, np.uint16)
        label_map(labels / f"{folder}_pano/{name}.tif", parts)
        label_map(labels / f"{folder}_merged/{name}.tif", halves(34, 57, 0, np.uint16))
        label_map(labels / f"{folder}/{name}.tif", halves(12_001_01, 84, 0, np.int32))
    city = root / "cityscapes"
    stem = "frankfurt/frankfurt_000000_000294"
    write_image(city / f"images_all/val/{stem}_leftImg8bit.png")
    label_map(
        city / f"gtFinePanopticPartsRemapped/val/{stem}_gtFinePanopticParts.tif",
        halves(50, 2, 0, np.uint16),
    )
    write_image(city / f"leftImg8bit/val/{stem}_leftImg8bit.png")
    label_map(
        city / f"gtFinePanopticParts/val/{stem}_gtFinePanopticParts.tif",
        halves(24_000_02, 23, 0, np.int32),
    )


def coco_format(root: Path) -> None:
    """LVIS, PACO and Objects365: the rectangle, of a class that is easy to mistake."""
    instances(
        root / "paco/paco_lvis_v1_val.json",
        root / "coco",
        ["val2017/000000000139.jpg"],
        {23: "trash_can", 2000: "car_(automobile):antenna"},
        [23, 2000],
    )
    for name, folder, file, masks in (
        ("zhiyuan", "Objects365/images/val", "instance365/zhiyuan_objv2_val_new.json", False),
        ("masks", "Objects365/images/val", "instance365/instance_365_val.json", True),
        ("train", "Objects365/images/train", "instance365/instance_365_train.json", True),
        ("first", "objects365/val", "objects365/annotations/objects365_val.json", False),
    ):
        names = [f"patch0/{name}.jpg"]
        instances(
            root / file, root / folder, names, {i: f"{i}" for i in range(1, 366)}, [365], masks
        )
    file = root / "lvis/lvis_v1_val.json"
    names = ["val2017/000000000139.jpg"]
    instances(file, root / "coco", names, {i: f"{i}" for i in range(1, 1204)}, [1203])


def in_the_wild(root: Path, odinw: dict[str, str]) -> None:
    """SegInW, and ODinW: `odinw` has a file below `odinw/` for the folder of its images."""
    for name in SEGINW:
        for split in ("train", "valid"):
            folder = root / "seginw" / name / split
            file = folder / "_annotations_min1cat.coco.json"
            instances(file, folder, ["a.jpg"], {0: "first"}, [0])
    for file, folder in odinw.items():
        place = root / "odinw"
        instances(place / file, place / folder, ["a b.jpg"], {1: "first"}, [1], masks=False)


def refcoco(root: Path, name: str, split: str) -> None:
    """RefCOCO as HIPIE's files have it: an entry of `images` an object."""
    file = "COCO_train2014_000000000009.jpg"
    write_image(root / "coco/train2014" / file)
    write_json(
        root / f"annotations/{name}/instances_{split}.json",
        {
            "images": [{**image_entry(0, file), "expressions": ["the left one", "it"]}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 0,
                    "category_id": 1,
                    "bbox": BOX,
                    "area": AREA,
                    "iscrowd": 0,
                    "segmentation": [POLYGON],
                }
            ],
            "categories": [{"id": 1, "name": "object"}],
        },
    )
