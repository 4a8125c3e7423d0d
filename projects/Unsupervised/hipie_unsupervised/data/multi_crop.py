"""Dataset mapper of DINO's crops (Caron et al., ICCV 2021, section 3.1; BYOL's augmentations)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.image_io import image_to_tensor, read_record_image
from hipie.data.record_list import read_records
from hipie.errors import InputError

# Strengths and probabilities of the published augmentation.
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
JITTER_PROBABILITY, GREY_PROBABILITY = 0.8, 0.2
BLUR_SIGMA = (0.1, 2.0)
BLUR_PROBABILITIES = {"first": 1.0, "second": 0.1, "local": 0.5}
SOLARIZE_THRESHOLD, SOLARIZE_PROBABILITY = 128, 0.2


@dataclass(frozen=True)
class CropConfig:
    """Sizes of the crops; see `MODEL.UNSUPERVISED.CROPS`.

    Attributes:
        global_size, local_size: sides after resizing, in pixels.
        global_scale, local_scale: smallest and largest share of the image's area.
        local_crops: number of local crops.
    """

    global_size: int = 224
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.25)
    local_crops: int = 10

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CropConfig:
        """Read `MODEL.UNSUPERVISED.CROPS`.

        Raises:
            InputError: naming the key, for a scale outside 0..1 or a negative number of crops.
        """
        node = cfg.MODEL.UNSUPERVISED.CROPS
        for key in ("GLOBAL_SCALE", "LOCAL_SCALE"):
            if not (len(node[key]) == 2 and 0 < node[key][0] <= node[key][1] <= 1):
                raise InputError(
                    f"MODEL.UNSUPERVISED.CROPS.{key} is {node[key]}; it has to be two shares in "
                    "0..1, the smaller one first"
                )
        if node.LOCAL_CROPS < 0:
            raise InputError(
                f"MODEL.UNSUPERVISED.CROPS.LOCAL_CROPS is {node.LOCAL_CROPS}; it cannot be negative"
            )
        return cls(
            node.GLOBAL_SIZE,
            tuple(node.GLOBAL_SCALE),
            node.LOCAL_SIZE,
            tuple(node.LOCAL_SCALE),
            node.LOCAL_CROPS,
        )


class MultiCrop:
    """Two global and several local random crops of an image.

    Args:
        config: sizes and number.
    """

    def __init__(self, config: CropConfig) -> None:
        self.config = config
        large, small = config.global_size, config.local_size
        self._first = _transform(large, config.global_scale, BLUR_PROBABILITIES["first"])
        self._second = _transform(
            large, config.global_scale, BLUR_PROBABILITIES["second"], SOLARIZE_PROBABILITY
        )
        self._local = _transform(small, config.local_scale, BLUR_PROBABILITIES["local"])

    def __call__(self, image: Tensor, seed: int | Sequence[int]) -> tuple[Tensor, Tensor]:
        """Crop an image; the same seed gives the same crops.

        Args:
            image: [3, H, W] uint8, RGB.
            seed: of the random numbers, as NumPy's generators take it.

        Returns:
            [2, 3, G, G] and [L, 3, l, l], uint8.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.default_rng(seed).integers(2**63)))
            large = torch.stack([self._first(image), self._second(image)])
            small = [self._local(image) for _ in range(self.config.local_crops)]
        side = self.config.local_size
        return large, torch.stack(small) if small else image.new_zeros(0, 3, side, side)


def _transform(
    size: int, scale: tuple[float, float], blur: float, solarize: float = 0.0
) -> v2.Transform:
    """Crop, flip, colours, blur and solarisation with these probabilities."""
    kernel = 2 * round(2 * BLUR_SIGMA[1]) + 1
    steps: list[Any] = [
        v2.RandomResizedCrop(
            size, scale=scale, interpolation=InterpolationMode.BICUBIC, antialias=True
        ),
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.ColorJitter(**JITTER)], JITTER_PROBABILITY),
        v2.RandomGrayscale(GREY_PROBABILITY),
        v2.RandomApply([v2.GaussianBlur(kernel, BLUR_SIGMA)], blur),
    ]
    if solarize:
        steps.append(v2.RandomSolarize(SOLARIZE_THRESHOLD, solarize))
    return v2.Compose(steps)


class MultiCropMapper:
    """Mapper of a record to `global_crops` and `local_crops`; annotations are not read.

    Args:
        crops: the augmentation.
        max_pixels: limit of the pixels of an image; None = none.
    """

    def __init__(self, crops: MultiCrop, max_pixels: int | None = None) -> None:
        self.crops, self.max_pixels = crops, max_pixels

    def __call__(self, record: dict[str, Any], seed: int | Sequence[int]) -> dict[str, Any]:
        """Read and crop the image of a record; see `MultiCrop`."""
        image = image_to_tensor(read_record_image(record, self.max_pixels), "RGB")
        large, small = self.crops(image, seed)
        return {
            "file_name": record["file_name"],
            "image_id": record.get("image_id"),
            "global_crops": large,
            "local_crops": small,
        }


@DATASET_MAPPER_REGISTRY.register()
def multi_crop(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the mapper of crops without labels, for training.

    Args:
        cfg: reads MODEL.UNSUPERVISED.CROPS and INPUT.MAX_PIXELS.
        dataset_name: a registered data set; only its images are read.
        training: has to be true.

    Raises:
        InputError: if the data set is for testing, or has no image.
    """
    if not training:
        raise InputError(f"{dataset_name}: DINO has no evaluation; leave DATASETS.TEST empty")
    records: Sequence[dict[str, Any]] = read_records(dataset_name)
    if not records:
        raise InputError(f"the data set {dataset_name} has no image")
    mapper = MultiCropMapper(MultiCrop(CropConfig.from_config(cfg)), cfg.INPUT.MAX_PIXELS)
    return MappedDataset(records, mapper)
