"""Pixel-adaptive mask refinement (PAMR).

Araslanov, Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section 4.2. In
each step every pixel is replaced by the weighted mean of its eight neighbours at several distances.
The weights are a softmax over -|colour difference| / (0.1 times the local standard deviation),
averaged over the channels. SCLIP (Wang et al., ECCV 2024) applies it after its windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.errors import InputError

STD_SCALE = 0.1
EPS = 1e-8
OFFSETS = [(down, right) for down in (0, 1, 2) for right in (0, 1, 2)]
CENTRE = (1, 1)


@dataclass(frozen=True)
class PAMRConfig:
    """Arguments of PAMR; see `refine_by_pixels`.

    Attributes:
        steps: number of iterations; 0 turns the refinement off.
        dilations: distances of the neighbours in pixels.
    """

    steps: int = 0
    dilations: tuple[int, ...] = (8, 16)

    def __post_init__(self) -> None:
        check_pamr(self.steps, self.dilations)


def refine_by_pixels(
    maps: Tensor, image: Tensor, steps: int = 10, dilations: Sequence[int] = (8, 16)
) -> Tensor:
    """Refine maps by the colours of the image.

    Args:
        maps: [N, H, W].
        image: [3, H, W] colours, of any scale.
        steps: number of iterations, published 10; 0 returns the maps unchanged.
        dilations: distances of the neighbours in pixels; SCLIP's are (8, 16).

    Returns:
        [N, H, W] float32.

    Raises:
        InputError: for negative steps, no distance, or a distance below 1.
    """
    check_pamr(steps, dilations)
    weights = pixel_affinity(image, dilations) if steps else ()
    maps = maps.float()
    for _ in range(steps):
        pairs = zip(weights, _neighbours(maps, dilations), strict=True)
        maps = sum(weight * shifted for weight, shifted in pairs)
    return maps


def pixel_affinity(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Compute the weights of the neighbours of every pixel, which sum to 1.

    Args:
        image: [3, H, W].
        dilations: D distances.

    Returns:
        [8 D, H, W].
    """
    image = image.float()
    deviation = torch.stack(list(_neighbours(image, dilations, include_centre=True))).std(0)
    distances = [
        ((shifted - image).abs() / (EPS + STD_SCALE * deviation)).mean(0)
        for shifted in _neighbours(image, dilations)
    ]
    return (-torch.stack(distances)).softmax(0)


def check_pamr(steps: int, dilations: Sequence[int]) -> None:
    """Check the arguments of `refine_by_pixels`; see there."""
    if steps < 0 or not len(dilations) or min(dilations) < 1:
        raise InputError(
            f"PAMR needs 0 or more steps and distances of 1 or more pixels, and not {steps} with "
            f"{tuple(dilations)}"
        )


def _neighbours(
    rows: Tensor, dilations: Sequence[int], include_centre: bool = False
) -> Iterator[Tensor]:
    """Yield [N, H, W] shifted in each direction by each distance, with replicated borders."""
    height, width = rows.shape[-2:]
    for distance in dilations:
        padded = F.pad(rows[None], [distance] * 4, mode="replicate")[0]
        for down, right in OFFSETS:
            if include_centre or (down, right) != CENTRE:
                top, left = distance * down, distance * right
                yield padded[:, top : top + height, left : left + width]
