"""Annotations of the next round of CutLER's self-training.

Wang, Girdhar, Yu, Misra, CVPR 2023, section 3.4: confident predictions replace the pseudo masks of
the round before that they overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pycocotools.mask as mask_util

from hipie.data.io.rle import to_rle

Entry = dict[str, Any]


def merge_annotations(
    annotations: Mapping[str, Any],
    predictions: Sequence[Mapping[str, Any]],
    threshold: float = 0.7,
    max_iou: float = 0.5,
) -> dict[str, Any]:
    """Join confident predictions with the annotations that none of them overlaps.

    Args:
        annotations: COCO's `images`, `annotations` and `categories` of the round before.
        predictions: COCO results with `image_id`, `score` and `segmentation` as RLE.
        threshold: least score of a prediction, published 0.7.
        max_iou: annotations with this mask IoU with a prediction, or more, are dropped.

    Returns:
        COCO's annotations of the same images, numbered from 1; `score` where it was predicted.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    predicted: dict[Any, list[Entry]] = {number: [] for number in sizes}
    for result in predictions:
        if result["score"] >= threshold and result["image_id"] in predicted:
            predicted[result["image_id"]].append(dict(result))
    previous: dict[Any, list[Entry]] = {number: [] for number in sizes}
    for entry in annotations["annotations"]:
        previous[entry["image_id"]].append(dict(entry))
    category = annotations["categories"][0]["id"]
    merged: list[Entry] = []
    for number, size in sizes.items():
        kept = _without_overlap(previous[number], predicted[number], size, max_iou)
        merged += [_annotation(entry, size, category) for entry in predicted[number] + kept]
    for index, entry in enumerate(merged, 1):
        entry["id"] = index
    return {
        "images": list(annotations["images"]),
        "annotations": merged,
        "categories": list(annotations["categories"]),
    }


def _without_overlap(
    entries: Sequence[Entry], predicted: Sequence[Entry], size: tuple[int, int], max_iou: float
) -> list[Entry]:
    """Entries whose largest IoU with a prediction is below the limit."""
    if not entries or not predicted:
        return list(entries)
    first, second = (
        [to_rle(entry["segmentation"], *size) for entry in group] for group in (entries, predicted)
    )
    ious = mask_util.iou(first, second, [0] * len(second))
    return [entry for entry, row in zip(entries, ious, strict=True) if row.max() < max_iou]


def _annotation(entry: Entry, size: tuple[int, int], category: int) -> Entry:
    """COCO annotation of a result or of an annotation, with its own area and box."""
    rle = to_rle(entry["segmentation"], *size)
    annotation = {
        "image_id": entry["image_id"],
        "category_id": category,
        "iscrowd": 0,
        "area": int(mask_util.area(rle)),
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": entry["segmentation"],
    }
    return {**annotation, "score": entry["score"]} if "score" in entry else annotation
