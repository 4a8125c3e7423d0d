"""Strong augmentation of the student's images (Unbiased Teacher, Liu et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import transforms

# Probability, range of areas and range of aspect ratios of the rectangles that are erased.
ERASED = (
    (0.7, (0.05, 0.2), (0.3, 3.3)),
    (0.5, (0.02, 0.2), (0.1, 6.0)),
    (0.3, (0.02, 0.2), (0.05, 8.0)),
)


def strongly_augmented(image: NDArray[Any], seed: Sequence[int]) -> NDArray[np.uint8]:
    """Distort the colours of an image, blur it and erase rectangles, all by chance.

    Objects stay where they are. torch's global generator is left as it was.

    Args:
        image: uint8 [H, W, 3], RGB.
        seed: determines the result.

    Returns:
        The same shape.
    """
    numbers = np.random.default_rng(list(seed))
    steps = transforms.Compose(
        [
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(9, (0.1, 2.0))], 0.5),
            transforms.ConvertImageDtype(torch.float32),
            *(transforms.RandomErasing(p, area, ratio, "random") for p, area, ratio in ERASED),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(numbers.integers(2**62)))
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        changed = (steps(pixels).clamp(0, 1) * 255).round().to(torch.uint8)
    augmented: NDArray[np.uint8] = changed.permute(1, 2, 0).numpy()
    return augmented
