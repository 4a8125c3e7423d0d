"""Ground truth of COCO's AP from records: the objects that training learns, and no others."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO

from hipie.data.annotation_maps import panoptic_ids, read_panoptic_map
from hipie.data.image_io import require_map_size
from hipie.data.io.rle import to_rle

Record = dict[str, Any]


@dataclass
class GroundTruth:
    """Objects of a test set in COCO's format.

    Images are numbered from 1, whatever their ids, and so are annotations: pycocotools cannot sort
    ids of several types, and never matches an annotation with the id 0. The category of a class is
    its index plus 1.

    Attributes:
        image_numbers: image id -> number.
        images: COCO's `images`.
        annotations: COCO's `annotations`.
        crowds: number of crowds among the annotations.
        boxes_only: number of annotations without a mask.
    """

    image_numbers: dict[Any, int] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    crowds: int = 0
    boxes_only: int = 0

    @property
    def tasks(self) -> tuple[str, ...]:
        """What can be evaluated: boxes, and masks where there are any."""
        return ("bbox", "segm") if self.boxes_only < len(self.annotations) else ("bbox",)

    def add(self, record: Record, objects: Iterable[dict[str, Any]]) -> None:
        """Add an image.

        Args:
            record: has `image_id`, `height` and `width`.
            objects: with `bbox` (XYWH, pixels), `category_id` (class index), `iscrowd`, and where
                it is known `segmentation`; their area is counted.
        """
        number = self.image_numbers.setdefault(record["image_id"], len(self.image_numbers) + 1)
        size = int(record["height"]), int(record["width"])
        self.images.append({"id": number, "height": size[0], "width": size[1]})
        for entry in objects:
            crowd = int(entry.get("iscrowd") or 0)
            annotation: dict[str, Any] = {
                "id": len(self.annotations) + 1,
                "image_id": number,
                "category_id": int(entry["category_id"]) + 1,
                "bbox": [float(side) for side in entry["bbox"]],
                "iscrowd": crowd,
                "area": _area(entry, *size),
            }
            if entry.get("segmentation"):
                annotation["segmentation"] = entry["segmentation"]
            else:
                self.boxes_only += 1
            self.crowds += crowd
            self.annotations.append(annotation)

    def as_coco(self, classes: Iterable[tuple[int, str]], task: str) -> COCO:
        """Return pycocotools' index of the annotations.

        For masks, an annotation without one is a region to ignore, its box: what is found there is
        neither right nor wrong.

        Args:
            classes: class indices and names that are evaluated.
            task: "bbox" or "segm".
        """
        evaluated = list(classes)
        categories = {index + 1 for index, _ in evaluated}
        annotations = [a for a in self.annotations if a["category_id"] in categories]
        if task == "segm":
            annotations = [a if "segmentation" in a else _ignored_box(a) for a in annotations]
        api = COCO()
        api.dataset = {
            "images": self.images,
            "annotations": annotations,
            "categories": [{"id": index + 1, "name": name} for index, name in evaluated],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            api.createIndex()
        return api


def panoptic_objects(record: Record, classes: Collection[int]) -> list[dict[str, Any]]:
    """Return the segments of a panoptic map as objects; those without a pixel are left out.

    Args:
        record: has `pan_seg_file_name` and `segments_info`.
        classes: class indices of the segments that are returned.

    Raises:
        ImageError: naming the map, if it cannot be read or has another size than the image.
    """
    path = record["pan_seg_file_name"]
    ids = panoptic_ids(read_panoptic_map(path))
    require_map_size(path, ids.shape, (record["height"], record["width"]))
    objects = []
    for segment in record["segments_info"]:
        if segment["category_id"] not in classes:
            continue
        rle = mask_util.encode(np.asfortranarray(ids == segment["id"], dtype=np.uint8))
        if mask_util.area(rle):
            objects.append(
                {
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "category_id": segment["category_id"],
                    "iscrowd": segment.get("iscrowd", 0),
                    "segmentation": rle,
                }
            )
    return objects


def _area(entry: dict[str, Any], height: int, width: int) -> float:
    """Return the pixels of an object, counted from its mask or box."""
    if entry.get("segmentation"):
        return float(mask_util.area(to_rle(entry["segmentation"], height, width)))
    return float(entry["bbox"][2] * entry["bbox"][3])


def _ignored_box(annotation: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    right, bottom = x + width, y + height
    corners = [x, y, right, y, right, bottom, x, bottom]
    return {**annotation, "segmentation": [corners], "iscrowd": 1}
