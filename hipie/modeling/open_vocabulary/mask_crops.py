"""One image a mask: what towers without a class token look at."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 0.5


def mask_crops(
    image: Tensor, masks: Tensor, size: tuple[int, int], at_once: int
) -> Iterator[Tensor]:
    """Every mask's box, grey outside the mask, resized.

    Args:
        image: [3, H, W] in 0..1.
        masks: [N, H, W] bool, none of them empty.
        size: (height, width) of a crop.
        at_once: crops in a batch.

    Yields:
        [at most at_once, 3, *size].
    """
    for start in range(0, len(masks), at_once):
        crops = []
        for mask in masks[start : start + at_once].to(image.device):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            crop = torch.where(mask[box], image[:, box[0], box[1]], GREY)
            crops.append(F.interpolate(crop[None], size=size, mode="bilinear")[0])
        yield torch.stack(crops)
