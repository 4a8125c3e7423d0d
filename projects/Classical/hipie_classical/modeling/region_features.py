"""Features of regions: colours, and means of an ImageNet network's feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.backbone.timm import TimmBackbone
from hipie_classical.modeling.label_maps import LabelMap, RGBImage, lab_colors

COLOR, NETWORK = "color", "network"
KINDS = (COLOR, NETWORK)
NETWORK_NAME = "tf_efficientnet_lite0"
LEVELS = ("res2", "res3", "res4")
# Mean and standard deviation of the network's weights, of 0..255.
PIXEL_MEAN = PIXEL_STD = 127.5


class RegionFeatures(nn.Module):
    """Features of the regions of an image.

    Args:
        kinds: "color", the mean and the standard deviation of CIELAB (6 numbers), and "network",
            the means of the feature maps of strides 4 to 16 of tf_efficientnet_lite0 with its
            ImageNet weights (176 numbers).

    Raises:
        InputError: for another kind, or none.
    """

    def __init__(self, kinds: Sequence[str] = KINDS) -> None:
        super().__init__()
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise InputError(
                f"MODEL.CLASSICAL.PROTOTYPES.FEATURES is {tuple(kinds)}; it has to be some of "
                f"{', '.join(KINDS)}"
            )
        self.kinds = tuple(kinds)
        self.network: TimmBackbone | None = None
        if NETWORK in kinds:
            self.network = TimmBackbone(NETWORK_NAME, "package").eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: RGBImage, labels: LabelMap) -> Tensor:
        """Compute the features of regions.

        Args:
            image: [H, W, 3] uint8 RGB.
            labels: [H, W], regions from 0; -1 is no region. Every region has a pixel.

        Returns:
            [R, D] float32 on the CPU.
        """
        parts = []
        if COLOR in self.kinds:
            parts.append(color_statistics(image, labels))
        if self.network is not None:
            device = next(self.network.parameters()).device
            pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)
            inputs = (pixels.float() - PIXEL_MEAN) / PIXEL_STD
            divisor = self.network.size_divisibility
            height, width = labels.shape
            padding = (0, -width % divisor, 0, -height % divisor)
            maps = self.network(F.pad(inputs[None], padding, mode="replicate"))
            for level in LEVELS:
                stride = self.network.output_shape()[level].stride
                assert stride is not None
                parts.append(mean_over_regions(maps[level][0].cpu(), labels, stride))
        return torch.cat(parts, dim=1)


def color_statistics(image: RGBImage, labels: LabelMap) -> Tensor:
    """Compute the mean and standard deviation of CIELAB in every region: [R, 6] float32."""
    inside = labels >= 0
    regions, colors = labels[inside], lab_colors(image)[inside].astype(np.float64)
    areas = np.bincount(regions)
    moments = [
        np.stack([np.bincount(regions, values) for values in (colors**power).T], axis=1)
        / areas[:, None]
        for power in (1, 2)
    ]
    deviation = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0))
    return torch.from_numpy(np.concatenate([moments[0], deviation], axis=1)).float()


def mean_over_regions(features: Tensor, labels: LabelMap, stride: int) -> Tensor:
    """Average a feature map over regions; a cell has the weight of its pixels of the region.

    Args:
        features: [C, h, w].
        labels: [H, W] with H <= h * stride and W <= w * stride; -1 is no region.
        stride: pixels of a cell's side.

    Returns:
        [R, C].
    """
    rows, columns = np.nonzero(labels >= 0)
    regions = labels[rows, columns]
    cells = (rows // stride) * features.shape[2] + columns // stride
    count, size = int(regions.max()) + 1, features[0].numel()
    pairs = regions.astype(np.int64) * size + cells
    weights = np.bincount(pairs, minlength=count * size).reshape(count, size)
    shares = torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(features.dtype)
    return shares @ features.flatten(1).t()
