"""Dataset mapper of interactive segmentation: images with the masks of their objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import NoOpTransform

from hipie.data.annotation_maps import read_panoptic_map
from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.dataset_mappers.annotations import instance_masks, panoptic_masks
from hipie.data.image_io import image_to_tensor, read_record_image
from hipie.data.record_list import read_records
from hipie.errors import InputError


class TargetsMapper:
    """Map a record with instances to an image at its original size and the masks of its objects.

    Crowds, stuff and empty masks are left out.
    """

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Read the image and the masks of a record.

        Returns:
            A dict with `image` [3, H, W] RGB, `targets` [N, H, W] bool, `file_name`, `height`,
            `width` and `image_id`.

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
        transform = NoOpTransform()
        if "pan_seg_file_name" in record:
            things = [s for s in record["segments_info"] if s.get("isthing", True)]
            labels = read_panoptic_map(record["pan_seg_file_name"])
            return panoptic_masks(labels, things, transform)[0]
        size = record["height"], record["width"]
        return instance_masks(record["annotations"], *size, transform)[0]


@DATASET_MAPPER_REGISTRY.register()
def interactive_targets(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the records and the mapper of a data set with instances.

    Raises:
        ValueError: in training, and for a data set without instances.
    """
    if training:
        raise InputError("InteractiveSAM is not trained here; use --eval-only")
    records = read_records(dataset_name)
    required = ("annotations", "pan_seg_file_name")
    if not any(key in record for record in records[:1] for key in required):
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        raise InputError(
            f"the data set {dataset_name} ({kind}) has no instances that could be clicked on"
        )
    return MappedDataset(records, TargetsMapper())
