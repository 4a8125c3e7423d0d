"""Masked crops: the box of a mask, with a plain colour outside the mask (OVSeg)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_crops(
    image: Tensor, masks: Tensor, size: tuple[int, int], fill: Tensor
) -> tuple[Tensor, Tensor]:
    """Crop the box of every mask, fill it outside the mask, and resize it to one size.

    Crops are resized bicubically without keeping their aspect ratio, masks to the nearest pixel
    (Liang et al., CVPR 2023, section 3.2 and the released code).

    Args:
        image: [3, H, W] in 0..1.
        masks: [N, H, W] bool, N at least 1, none of them empty.
        size: (height, width) of a crop.
        fill: [3] colour outside the masks, in 0..1.

    Returns:
        Crops [N, 3, *size], and masks [N, *size] bool.
    """
    crops, crop_masks = [], []
    for mask in masks.to(image.device):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        crop = torch.where(mask[box], image[:, box[0], box[1]], fill.to(image)[:, None, None])
        crops.append(F.interpolate(crop[None], size=size, mode="bicubic")[0])
        crop_masks.append(F.interpolate(mask[box][None, None].float(), size=size)[0, 0] > 0)
    return torch.stack(crops), torch.stack(crop_masks)
