"""Images and masks on the square and the grid of patches that DINO sees."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.support_set import Example


def squashed(image: np.ndarray, size: int) -> np.ndarray:
    """An image [H, W, 3] as a square [size, size, 3], whatever its shape."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def features(dino: Dino, images: Sequence[np.ndarray]) -> Tensor:
    """Unit features of the patches of squares [S, S, 3] uint8: [B, g * g, C]."""
    pixels = torch.from_numpy(np.stack(images)).to(dino.device).permute(0, 3, 1, 2) / 255
    return F.normalize(dino.patches(pixels).float(), dim=-1)


def example_features(dino: Dino, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Features of all examples' patches, and how much of each patch is masked.

    Returns:
        [B * g * g, C] of unit length and [B * g * g] in 0..1.
    """
    found = features(dino, [squashed(one.image, dino.size) for one in examples])
    shares = torch.stack([shown(one.mask, dino.size, dino.patch) for one in examples])
    return found.flatten(0, 1), shares.flatten().to(found.device)


def shown(mask: np.ndarray, size: int, patch: int) -> Tensor:
    """The share of each patch that a mask covers: [g, g] in 0..1, never all 0.

    The mask goes to the square by nearest neighbour; one that is so thin that nothing of it is hit
    goes there by area.
    """
    floats = torch.from_numpy(mask.astype(np.float32))
    square = F.interpolate(floats[None, None], (size, size), mode="nearest")
    if not square.any():
        area = cv2.resize(mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
        square = torch.from_numpy(area)[None, None]
    if not square.any():
        square = F.adaptive_max_pool2d(floats[None, None], (size, size))
    return F.avg_pool2d(square, patch)[0, 0]
