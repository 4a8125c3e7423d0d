"""Writer of groups in the format of GRD (D3): pickled dictionaries keyed by integer ids.

    groups/<split>/{images,annotations,sentences,groups}.pkl     pickle protocol 2
    images/groups_<split>/000000_0.jpg                            page 0 of group 0

`file_name` is relative to images/. The target of an expression in an image is the union of the
image's annotations whose `sent_id` contains the expression; without any, the image is negative.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from . import records
from .book import PictureBook
from .classes import CATEGORY_IDS
from .files import write_bytes, write_jpeg
from .groups import Group
from .numbering import annotation_id, group_image_id, stem

_EXPRESSIONS_PER_GROUP = 4


def write_group(root: Path, book: PictureBook, index: int) -> dict[str, Any]:
    """Draw a group, write its pages, and return its records for `collect_groups`."""
    group = book.group(index)
    images = []
    for position, page in enumerate(group.pages):
        name = f"groups_{book.split}/{stem(index)}_{position}.jpg"
        write_jpeg(root / "images" / name, page.image)
        image = group_image_id(book.split, index, position)
        images.append(_image(group, position, image, name))
    return {
        "index": index,
        "scene": group.pages[0].scene,
        "images": images,
        "expressions": [{"text": e.text, "absent": e.absent} for e in group.expressions],
    }


def _image(group: Group, position: int, image: int, name: str) -> dict[str, Any]:
    page = group.pages[position]
    annotations = []
    for thing in page.things:
        matching = [k for k, e in enumerate(group.expressions) if thing.id in e.targets[position]]
        if matching:
            annotations.append(
                {
                    "id": annotation_id(image, thing.id), "category_id": CATEGORY_IDS[thing.name],
                    "expressions": matching, "segmentation": records.rle(page.mask(thing.id)),
                    "bbox": list(thing.bbox), "area": thing.area,
                }
            )  # fmt: skip
    height, width = page.image.shape[:2]
    return {
        "id": image,
        "file_name": name,
        "height": height,
        "width": width,
        "annotations": annotations,
    }


def collect_groups(root: Path, split: str, drawn: list[dict[str, Any]]) -> None:
    """Write the four pickles of a split, and delete images of groups that are not in it."""
    tables: dict[str, dict[int, dict[str, Any]]] = {
        "images": {},
        "annotations": {},
        "sentences": {},
        "groups": {},
    }
    for group in drawn:
        _add_group(tables, group)
    all_ids = list(tables["sentences"])
    for row in tables["groups"].values():
        inner_ids = set(row["inner_sent_id"])
        row["outer_sent_id"] = [identity for identity in all_ids if identity not in inner_ids]
    for name, table in tables.items():
        write_bytes(root / "groups" / split / f"{name}.pkl", pickle.dumps(table, protocol=2))
    used_names = {Path(row["file_name"]).name for row in tables["images"].values()}
    for path in (root / "images" / f"groups_{split}").glob("*.jpg"):
        if path.name not in used_names:
            path.unlink()


def _add_group(tables: dict[str, dict[int, dict[str, Any]]], group: dict[str, Any]) -> None:
    number = group["index"] + 1
    first = group["index"] * _EXPRESSIONS_PER_GROUP + 1
    ids = [first + k for k in range(len(group["expressions"]))]
    for identity, expression in zip(ids, group["expressions"], strict=True):
        tables["sentences"][identity] = {
            "id": identity, "anno_id": [], "group_id": [number],
            "is_negative": expression["absent"], "raw_sent": expression["text"], "raw_sent_zh": "",
        }  # fmt: skip
    for image in group["images"]:
        tables["images"][image["id"]] = {
            "id": image["id"], "file_name": image["file_name"], "height": image["height"],
            "width": image["width"], "anno_id": [a["id"] for a in image["annotations"]],
            "group_id": number, "flickr_url": "", "license": 1,
        }  # fmt: skip
        for annotation in image["annotations"]:
            sent_ids = [ids[k] for k in annotation["expressions"]]
            tables["annotations"][annotation["id"]] = {
                "id": annotation["id"], "image_id": image["id"], "group_id": number,
                "sent_id": sent_ids, "segmentation": annotation["segmentation"],
                "bbox": annotation["bbox"], "area": annotation["area"], "iscrowd": 0,
            }  # fmt: skip
            for identity in sent_ids:
                tables["sentences"][identity]["anno_id"].append(annotation["id"])
    positive_ids = [k for k, s in zip(ids, group["expressions"], strict=True) if not s["absent"]]
    tables["groups"][number] = {
        "id": number, "img_id": [image["id"] for image in group["images"]],
        "pos_sent_id": positive_ids, "inner_sent_id": ids, "outer_sent_id": [],
        "scene": group["scene"], "group_name": group["expressions"][0]["text"], "group_name_zh": "",
    }  # fmt: skip
