"""Images and masks on the square input and the patch grid of DINO."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hipie_fewshot.modeling.clip_features import ClipPatches
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.support_set import Example

PatchEncoder = Dino | ClipPatches


def resize_to_square(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image [H, W, 3] to [size, size, 3], without keeping its aspect ratio."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def normalized_features(dino: PatchEncoder, squares: Sequence[np.ndarray]) -> Tensor:
    """Compute unit-length patch features of images [S, S, 3] uint8: [B, g * g, C] float32."""
    pixels = torch.from_numpy(np.stack(squares)).to(dino.device).permute(0, 3, 1, 2) / 255
    return F.normalize(dino.extract_features(pixels).float(), dim=-1)


def support_features(dino: PatchEncoder, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Compute the patch features of all support images and the masked fraction of each patch.

    Returns:
        Features [B * g * g, C] of unit length, and fractions [B * g * g] in 0..1.
    """
    squares = [resize_to_square(example.image, dino.image_size) for example in examples]
    features = normalized_features(dino, squares)
    fractions = torch.stack(
        [patch_mask_fractions(e.mask, dino.image_size, dino.patch_size) for e in examples]
    )
    return features.flatten(0, 1), fractions.flatten().to(features.device)


def patch_mask_fractions(mask: np.ndarray, size: int, patch_size: int) -> Tensor:
    """Compute which fraction of each patch a mask covers.

    The mask is resized to the square by nearest neighbour; where that loses a thin mask
    completely, by area.

    Args:
        mask: [H, W] bool, not empty.
        size: side of the square in pixels.
        patch_size: side of a patch in pixels.

    Returns:
        [g, g] float32 in 0..1, at least one of them above 0.
    """
    values = mask.astype(np.float32)
    square = F.interpolate(torch.from_numpy(values)[None, None], (size, size), mode="nearest")
    if not square.any():
        area = cv2.resize(values, (size, size), interpolation=cv2.INTER_AREA)
        square = torch.from_numpy(area)[None, None]
    if not square.any():
        square = F.adaptive_max_pool2d(torch.from_numpy(values)[None, None], (size, size))
    return F.avg_pool2d(square, patch_size)[0, 0]


def upsample_patch_values(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize values of patches [g * g] bilinearly to an image's size [H, W]."""
    side = round(values.numel() ** 0.5)
    grid = values.reshape(1, 1, side, side)
    return F.interpolate(grid, size, mode="bilinear", align_corners=False)[0, 0]


def patch_centres(patches: Tensor, side: int, patch_size: int) -> np.ndarray:
    """Compute x and y [M, 2] of patch centres in pixels of the square.

    Args:
        patches: [M] row-major patch indices.
        side: patches in a row.
        patch_size: side of a patch in pixels.
    """
    x, y = patches % side, patches // side
    centres: np.ndarray = (torch.stack([x, y], dim=1) * patch_size + patch_size // 2).cpu().numpy()
    return centres
