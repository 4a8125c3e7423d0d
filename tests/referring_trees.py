"""Small data sets of expressions, in the very files in which the real ones are distributed.

Images are 40 wide and 30 high. Every object is a rectangle; `rectangle(k)` is object k's.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

HEIGHT, WIDTH = 30, 40
SPLITS = {
    "refs(unc).p": ("train", "val", "testA", "testB"),
    "refs(umd).p": ("train", "val", "test"),
    "refs(google).p": ("train", "val"),
}


def rectangle(number: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of an object, pixels."""
    return 2 + number % 7, 3 + number % 5, 8 + number % 9, 6 + number % 11


def mask_of(*numbers: int) -> np.ndarray:
    """Bool [H, W]: the union of objects."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for number in numbers:
        left, top, width, height = rectangle(number)
        mask[top : top + height, left : left + width] = True
    return mask


def polygon(number: int) -> list[float]:
    """The corners of an object."""
    left, top, width, height = rectangle(number)
    right, bottom = left + width, top + height
    return [float(v) for v in (left, top, right, top, right, bottom, left, bottom)]


def write_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """A grey JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 60)).save(path)


def coco_name(image: int, year_split: str = "train2014") -> str:
    """What COCO calls an image of 2014."""
    return f"COCO_{year_split}_{image:012d}.jpg"


def instances(images: list[int], objects: int, names: dict[int, str] | None = None) -> dict:
    """An `instances.json`: `objects` objects in every image; one as run lengths."""
    annotations = []
    for image in images:
        for place in range(objects):
            number = image * 10 + place
            segmentation: Any = [polygon(number)]
            if place == objects - 1:
                runs = mask_util.encode(np.asfortranarray(mask_of(number), dtype=np.uint8))
                segmentation = {"size": runs["size"], "counts": runs["counts"].decode("ascii")}
            annotations.append(
                {
                    "id": number,
                    "image_id": image,
                    "category_id": 1 + place,
                    "iscrowd": 0,
                    "bbox": [float(v) for v in rectangle(number)],
                    "area": float(mask_of(number).sum()),
                    "segmentation": segmentation,
                }
            )
    listed = [
        {
            "id": image,
            "file_name": (names or {}).get(image, coco_name(image)),
            "height": HEIGHT,
            "width": WIDTH,
            "license": 1,
        }
        for image in images
    ]
    categories = [{"id": 1 + k, "name": f"kind {k}", "supercategory": "x"} for k in range(objects)]
    return {"info": {}, "images": listed, "annotations": annotations, "categories": categories}


def ref(number: int, image: int, annotation: Any, split: str, expressions: int = 2) -> dict:
    """A ref as Licheng Yu's files have it; `file_name` is no file's name there."""
    said = [
        {
            "sent_id": 100 * number + k,
            "raw": f"The Thing no. {number}, said {k}",
            "sent": f"the thing no {number} said {k}",
            "tokens": ["the", "thing", "no", str(number), "said", str(k)],
        }
        for k in range(expressions)
    ]
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": image,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "sent_ids": [one["sent_id"] for one in said],
        "sentences": said,
    }


def write_refcoco(downloads: Path, root: Path) -> None:
    """refcoco.zip, refcoco+.zip and refcocog.zip; the images in the tree.

    Split k of a set has the images k+1 and 9; ref 1 + 2k is of object 0 of image k+1, ref
    2 + 2k of object 1, which has run lengths.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    for image in (*range(1, 5), 9):
        write_image(root / "coco/train2014" / coco_name(image))
    files = {
        "refcoco": ["refs(unc).p", "refs(google).p"],
        "refcoco+": ["refs(unc).p"],
        "refcocog": ["refs(umd).p", "refs(google).p"],
    }
    for folder, names in files.items():
        with zipfile.ZipFile(downloads / f"{folder}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            content = json.dumps(instances([1, 2, 3, 4, 9], 2))
            archive.writestr(f"{folder}/instances.json", content)
            archive.writestr(f"__MACOSX/{folder}/._instances.json", "x")
            for name in names:
                refs = []
                for k, split in enumerate(SPLITS[name]):
                    refs += [
                        ref(1 + 2 * k, k + 1, 10 * (k + 1), split, expressions=k + 1),
                        ref(2 + 2 * k, k + 1, 10 * (k + 1) + 1, split, expressions=3),
                    ]
                archive.writestr(f"{folder}/{name}", pickle.dumps(refs, protocol=2))


def write_grefcoco(downloads: Path, root: Path) -> None:
    """grefs(unc).json and instances.json: one ref of two objects, one of one, one of none."""
    downloads.mkdir(parents=True, exist_ok=True)
    refs = []
    for k, split in enumerate(("train", "val", "testA", "testB")):
        image = k + 1
        write_image(root / "coco/train2014" / coco_name(image))
        refs += [
            ref(3 * k, image, [10 * image, 10 * image + 1], split),
            ref(3 * k + 1, image, [10 * image], split),
            {**ref(3 * k + 2, image, [-1], split, expressions=1), "no_target": True},
        ]
    (downloads / "grefs(unc).json").write_text(json.dumps(refs))
    (downloads / "instances.json").write_text(json.dumps(instances([1, 2, 3, 4], 2)))


def write_refzom(downloads: Path, root: Path) -> None:
    """Ref-ZOM(final).p and instances.json, images of train2014 and val2014."""
    downloads.mkdir(parents=True, exist_ok=True)
    names = {1: coco_name(1), 2: coco_name(2, "val2014")}
    write_image(root / "coco/train2014" / names[1])
    write_image(root / "coco/val2014" / names[2])
    refs = [
        {**ref(1, 1, 10, "train"), "source": "refcoco"},
        {**ref(2, 2, [20, 21], "test"), "source": "many"},
        {**ref(3, 2, 20, "test", expressions=1), "source": "zero"},
        ref(4, 1, [11], "test", expressions=1),
    ]
    (downloads / "Ref-ZOM(final).p").write_bytes(pickle.dumps(refs, protocol=2))
    (downloads / "instances.json").write_text(json.dumps(instances([1, 2], 2, names)))


def grd_tables() -> dict[str, dict[int, dict]]:
    """D3's four tables, with NumPy's boxes and numbers: two groups of two images.

    Group g has the images 2g-1 and 2g and the expressions 2g-1 (present) and 2g (absence). The
    first image shows the first expression with two objects, the second one nothing; the absence
    expression is met by one object of the second image.
    """
    images, annotations, expressions, groups = {}, {}, {}, {}
    for group in (1, 2):
        first, second = 2 * group - 1, 2 * group
        for image, shown in ((first, [(first, 0), (first, 1)]), (second, [(second, 2)])):
            numbers = []
            for expression, place in shown:
                number = 10 * image + place
                runs = mask_util.encode(np.asfortranarray(mask_of(number), dtype=np.uint8))
                annotations[number] = {
                    "id": number,
                    "image_id": image,
                    "group_id": group,
                    "sent_id": [expression],
                    "segmentation": [runs] if place else runs,
                    "bbox": np.array([rectangle(number)], dtype=np.float32),
                    "area": np.float64(mask_of(number).sum()),
                    "iscrowd": 0,
                }
                numbers.append(number)
            images[image] = {
                "id": image,
                "file_name": f"group{group}/{image}.jpg",
                "height": HEIGHT,
                "width": np.int64(WIDTH),
                "anno_id": np.array(numbers),
                "group_id": group,
                "flickr_url": "",
                "license": 1,
            }
        for expression, absence in ((first, False), (second, True)):
            expressions[expression] = {
                "id": expression,
                "anno_id": [n for n, a in annotations.items() if expression in a["sent_id"]],
                "group_id": [group],
                "is_negative": absence,
                "raw_sent": f"a thing {'without' if absence else 'with'} hat {group}",
                "raw_sent_zh": "",
            }
        groups[group] = {
            "id": group,
            "img_id": [first, second],
            "pos_sent_id": [first],
            "inner_sent_id": [first, second],
            "outer_sent_id": [],
            "scene": "x",
            "group_name": f"hats {group}",
            "group_name_zh": "",
        }
    return {
        "images": images,
        "annotations": annotations,
        "sentences": expressions,
        "groups": groups,
    }


def write_grd(downloads: Path, protocol: int = 4) -> None:
    """d3_pkl.zip, and the images unpacked."""
    downloads.mkdir(parents=True, exist_ok=True)
    tables = grd_tables()
    with zipfile.ZipFile(downloads / "d3_pkl.zip", "w") as archive:
        for name, table in tables.items():
            archive.writestr(f"d3_pkl/{name}.pkl", pickle.dumps(table, protocol=protocol))
    for row in tables["images"].values():
        write_image(downloads / "d3_images" / row["file_name"])


def write_cosod(downloads: Path) -> None:
    """CoCA and CoSOD3k in two layouts: two groups of two images; object 11 g + image."""
    for name, image, gt in (("CoCA", "image", "binary"), ("CoSOD3k", "Image", "GroundTruth")):
        for place, group in enumerate(("alarm_clock", "dog")):
            for number in range(2):
                stem = f"{group}_{number}.x"
                write_image(downloads / name / image / group / f"{stem}.jpg")
                target = downloads / name / gt / group / f"{stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                mask = mask_of(11 * place + number).astype(np.uint8) * 255
                Image.fromarray(mask).save(target)
            (downloads / name / image / group / ".DS_Store").write_bytes(b"x")
