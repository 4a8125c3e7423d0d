"""Dataset mapper of images without their annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode

from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.image_io import image_to_tensor, read_record_image, resized_shape
from hipie.data.record_list import read_records
from hipie.errors import InputError


class UnlabelledMapper:
    """Mapper of a record to its resized image; annotations are not read.

    Args:
        shortest: length of the shorter side after resizing, pixels.
        longest: limit of the longer side, pixels.
        image_format: "RGB" or "BGR".
        max_pixels: limit of the pixels of an image; None = none.
    """

    def __init__(
        self, shortest: int, longest: int, image_format: str, max_pixels: int | None = None
    ) -> None:
        self.shortest, self.longest = shortest, longest
        self.image_format, self.max_pixels = image_format, max_pixels

    def __call__(self, record: dict[str, Any], seed: int | Sequence[int] = 0) -> dict[str, Any]:
        """Read and resize the image of a record."""
        image = image_to_tensor(read_record_image(record, self.max_pixels), self.image_format)
        height, width = image.shape[-2:]
        size = resized_shape(height, width, self.shortest, self.longest)
        resized = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
        item: dict[str, Any] = {"image": resized, "height": height, "width": width}
        item |= {key: record[key] for key in ("file_name", "image_id") if key in record}
        return item


@DATASET_MAPPER_REGISTRY.register()
def unlabelled(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the mapper of images without their annotations, all of one size of the shorter side.

    Args:
        cfg: reads INPUT.{MIN_SIZE_TEST, MAX_SIZE_TEST, FORMAT, MAX_PIXELS}.
        dataset_name: a registered data set.
        training: the mapper is the same.

    Raises:
        InputError: if the data set has no image.
    """
    records: Sequence[dict[str, Any]] = read_records(dataset_name)
    if not records:
        raise InputError(f"the data set {dataset_name} has no image")
    node = cfg.INPUT
    mapper = UnlabelledMapper(node.MIN_SIZE_TEST, node.MAX_SIZE_TEST, node.FORMAT, node.MAX_PIXELS)
    return MappedDataset(records, mapper)
