"""Registered data sets as images with objects to click on."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import NoOpTransform

from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.dataset_mappers.annotations import instance_masks, panoptic_masks
from hipie.data.image_io import image_to_tensor, read_label_map, read_record_image


class TargetsMapper:
    """A record with instances -> the image, unresized, and the masks of its objects.

    Crowds and empty masks are left out; of a panoptic map, so is stuff.
    """

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """A dict with `image` [3, H, W] RGB, `targets` [N, H, W] bool, and the record's names.

        Raises:
            ValueError: naming the file, if a file cannot be read or sizes disagree.
        """
        image = read_record_image(record)
        item = {key: record[key] for key in ("file_name", "height", "width", "image_id")}
        masks = self._masks(record)
        item["image"] = image_to_tensor(image, "RGB")
        item["targets"] = masks[masks.any((1, 2))]
        return item

    def _masks(self, record: dict[str, Any]) -> np.ndarray:
        still = NoOpTransform()
        if "pan_seg_file_name" in record:
            things = [one for one in record["segments_info"] if one.get("isthing", True)]
            colours = read_label_map(record["pan_seg_file_name"])
            return panoptic_masks(colours, things, still)[0]
        size = record["height"], record["width"]
        return instance_masks(record["annotations"], *size, still)[0]


@DATASET_MAPPER_REGISTRY.register()
def interactive_targets(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build records and mapper of a data set with instances.

    Raises:
        ValueError: in training, and for a data set without instances.
    """
    if training:
        raise ValueError("InteractiveSAM is not trained here; use --eval-only")
    records = DatasetCatalog.get(dataset_name)
    required = ("annotations", "pan_seg_file_name")
    if not any(key in record for record in records[:1] for key in required):
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        raise ValueError(
            f"the data set {dataset_name} ({kind}) has no instances that could be clicked on"
        )
    return MappedDataset(records, TargetsMapper())
