"""Maps that follow the colours of the image: pixel-adaptive mask refinement (PAMR).

Araslanov, Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section 4.2. In
each step every pixel takes a weighted mean of its eight neighbours at several distances; weights
are a softmax over -|colour difference| / (0.1 standard deviation of the colour around), averaged
over the three colours. SCLIP (Wang et al., ECCV 2024) offers it after its windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie_training_free.error import TrainingFreeError

SHARPNESS = 0.1
TINY = 1e-8
AROUND = [(down, right) for down in (0, 1, 2) for right in (0, 1, 2)]
MIDDLE = (1, 1)


def refine_by_pixels(
    maps: Tensor, image: Tensor, steps: int = 10, dilations: Sequence[int] = (8, 16)
) -> Tensor:
    """Maps smoothed inside what looks alike; their edges move to the image's.

    Args:
        maps: [N, H, W] of any meaning; every value stays between the smallest and the largest.
        image: [3, H, W] colours, in any units: only their ratios to their spread count.
        steps: published 10; 0 changes nothing.
        dilations: how far neighbours are, in pixels; SCLIP's are (8, 16).

    Returns:
        [N, H, W] float32.

    Raises:
        TrainingFreeError: for less than no step, no distance, or one below 1.
    """
    require_pamr(steps, dilations)
    weights = pixel_affinity(image, dilations) if steps else ()
    maps = maps.float()
    for _ in range(steps):
        pairs = zip(weights, _neighbours(maps, dilations), strict=True)
        maps = sum(weight * shown for weight, shown in pairs)
    return maps


def pixel_affinity(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """[8 D, H, W] how much a pixel takes from each neighbour: of sum 1 at every pixel.

    Args:
        image: [3, H, W].
        dilations: D distances.
    """
    image = image.float()
    spread = torch.stack(list(_neighbours(image, dilations, middle=True))).std(0)
    apart = [
        ((shown - image).abs() / (TINY + SHARPNESS * spread)).mean(0)
        for shown in _neighbours(image, dilations)
    ]
    return (-torch.stack(apart)).softmax(0)


def require_pamr(steps: int, dilations: Sequence[int]) -> None:
    """Refuse settings that mean nothing; see `refine_by_pixels`."""
    if steps < 0 or not len(dilations) or min(dilations) < 1:
        raise TrainingFreeError(
            f"PAMR needs 0 or more steps and distances of 1 or more pixels, and not {steps} with "
            f"{tuple(dilations)}"
        )


def _neighbours(rows: Tensor, dilations: Sequence[int], middle: bool = False) -> Iterator[Tensor]:
    """[N, H, W] moved each way by each distance; at the border the outermost pixels go on."""
    height, width = rows.shape[-2:]
    for far in dilations:
        padded = F.pad(rows[None], [far] * 4, mode="replicate")[0]
        for down, right in AROUND:
            if middle or (down, right) != MIDDLE:
                top, left = far * down, far * right
                yield padded[:, top : top + height, left : left + width]
