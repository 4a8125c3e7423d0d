"""Conversion of a page to annotation records of COCO, RefCOCO and gRefCOCO, and to label maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from .classes import CATEGORY_IDS, CLASS_NAMES, PART_IDS, PARTS, THINGS
from .numbering import annotation_id, expression_id, part_annotation_id
from .page import Expression, Page, mask_box

Record = dict[str, Any]
LICENCES = [
    {"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}
]
SOURCE = "drawn by hipie's picture book"


def info(seed: int, version: int, split: str) -> Record:
    """Return the `info` field of a COCO file."""
    return {
        "description": f"Picture book, {split} pages, seed {seed}, version {version}: {SOURCE}",
        "version": str(version),
        "contributor": "hipie",
        "picturebook": {"seed": seed, "version": version, "split": split},
    }


def thing_categories() -> list[Record]:
    """Return the categories of things for COCO instance files."""
    return [
        {"id": CATEGORY_IDS[thing.name], "name": thing.name, "supercategory": "thing"}
        for thing in THINGS
    ]


def panoptic_categories() -> list[Record]:
    """Return the categories of things, then stuff, for COCO panoptic files."""
    rows = []
    for number, name in enumerate(CLASS_NAMES):
        thing = number < len(THINGS)
        hue = (number * 67) % 256
        rows.append(
            {
                "id": CATEGORY_IDS[name],
                "name": name,
                "supercategory": "thing" if thing else "stuff",
                "isthing": int(thing),
                "color": [hue, (hue * 3 + 80) % 256, (255 - hue * 2) % 256],
            }
        )
    return rows


def part_categories() -> list[Record]:
    """Return the categories of parts; `id` is the value in the label maps."""
    return [
        {
            "id": PART_IDS[row.name],
            "name": row.name,
            "supercategory": row.whole or row.kind,
            "whole": row.whole,
            "part": row.part,
            "level": row.level,
            "parent": row.parent,
            "kind": row.kind,
        }
        for row in PARTS
    ]


def rle(mask: NDArray[Any]) -> Record:
    """Encode a bool mask as COCO's compressed RLE, serialisable as JSON."""
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(v) for v in coded["size"]], "counts": coded["counts"].decode("ascii")}


def image_record(page: Page, image: int, file_name: str) -> Record:
    """Return the entry of a page in COCO's list of images."""
    height, width = page.image.shape[:2]
    return {
        "id": image,
        "file_name": file_name,
        "height": height,
        "width": width,
        "license": 1,
        "source": SOURCE,
        "scene": page.scene,
    }


def instance_records(page: Page, image: int) -> list[Record]:
    """Return one COCO annotation per thing, with its attributes as extra fields."""
    return [
        {
            "id": annotation_id(image, segment.id),
            "image_id": image,
            "category_id": CATEGORY_IDS[segment.name],
            "iscrowd": 0,
            "area": segment.area,
            "bbox": list(segment.bbox),
            "segmentation": rle(page.panoptic == segment.id),
            "attributes": {
                "colour": segment.colour,
                "size": segment.size,
                "pattern": segment.pattern,
            },
            "ground": segment.ground,
        }
        for segment in page.things
    ]


def panoptic_record(page: Page, image: int, file_name: str) -> Record:
    """Return the COCO panoptic annotation of a page."""
    return {
        "image_id": image,
        "file_name": file_name,
        "segments_info": [
            {
                "id": segment.id,
                "category_id": CATEGORY_IDS[segment.name],
                "area": segment.area,
                "bbox": list(segment.bbox),
                "iscrowd": 0,
            }
            for segment in page.segments
        ],
    }


def part_records(page: Page, image: int) -> list[Record]:
    """Return one annotation per visible part.

    `thing_id` is an id of the instances file, `parent_id` an id of this file.
    """
    records = []
    for part in page.parts:
        parent = None if part.parent is None else part_annotation_id(image, part.parent)
        records.append(
            {
                "id": part_annotation_id(image, part.id),
                "image_id": image,
                "thing_id": annotation_id(image, part.thing_id),
                "category_id": PART_IDS[part.name],
                "level": part.level,
                "parent_id": parent,
                "iscrowd": 0,
                "area": int(part.mask.sum()),
                "bbox": list(mask_box(part.mask)),
                "segmentation": rle(part.mask),
            }
        )
    return records


def semantic_map(page: Page) -> NDArray[Any]:
    """Return the semantic label map, uint8 [H, W]: index into `CLASS_NAMES`, 255 = ignored."""
    return _by_segment(page, {name: number for number, name in enumerate(CLASS_NAMES)}, 255)


def part_label_map(page: Page) -> NDArray[Any]:
    """Return the map of innermost parts, uint8 [H, W]: 1-based index into `PARTS`, 0 = none."""
    whole = {row.name: PART_IDS[row.name] for row in PARTS if row.whole is None}
    labels = _by_segment(page, whole, 0)
    table = np.zeros(int(page.part_map.max()) + 1, np.uint8)
    for part in page.parts:
        table[part.id] = PART_IDS[part.name]
    return np.where(page.part_map > 0, table[page.part_map], labels)


def _by_segment(page: Page, values: dict[str, int], empty: int) -> NDArray[Any]:
    table = np.full(len(page.segments) + 1, empty, np.uint8)
    for segment in page.segments:
        table[segment.id] = values.get(segment.name, empty)
    return table[page.panoptic]


def expression_records(page: Page, image: int) -> tuple[list[Record], list[Record]]:
    """Return the gRefCOCO refs of a page, one per expression, and the kind of each expression."""
    references, kinds = [], []
    for position, expression in enumerate(page.expressions):
        references.append(_reference(page, image, position, expression))
        kinds.append(
            {
                "sent_id": expression_id(image, position),
                "image_id": image,
                "split": page.split,
                "kind": expression.kind,
                "number": expression.number,
                "novel": expression.novel,
            }
        )
    return references, kinds


def _reference(page: Page, image: int, position: int, expression: Expression) -> Record:
    names = {segment.id: segment.name for segment in page.segments}
    identity = expression_id(image, position)
    stem = f"{page.split}/{page.index:06d}"
    return {
        "ref_id": identity,
        "image_id": image,
        "split": page.split,
        "ann_id": [annotation_id(image, target) for target in expression.targets] or [-1],
        "category_id": [CATEGORY_IDS[names[target]] for target in expression.targets] or [-1],
        "no_target": not expression.targets,
        "file_name": f"{stem}_{identity}.jpg",
        "sent_ids": [identity],
        "sentences": [expression_fields(expression.text, identity)],
    }


def expression_fields(text: str, identity: int) -> Record:
    """Return an entry of RefCOCO's `sentences`; the normalised text equals the raw text."""
    return {"tokens": text.split(), "raw": text, "sent_id": identity, "sent": text}
