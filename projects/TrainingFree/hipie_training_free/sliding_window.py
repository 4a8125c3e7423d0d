"""A large image seen through windows, and what they say averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from hipie_training_free.error import TrainingFreeError


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side; the last one ends with it."""
    if length <= window:
        return [0]
    steps = -(-(length - window) // stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def windows(size: tuple[int, int], window: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of every window over (height, width).

    Raises:
        TrainingFreeError: for a window or stride that leaves pixels out.
    """
    if not 1 <= stride <= window:
        raise TrainingFreeError(f"windows of {window} pixels cannot move on by {stride} at a time")
    for top in window_starts(size[0], window, stride):
        for left in window_starts(size[1], window, stride):
            yield (
                slice(top, min(top + window, size[0])),
                slice(left, min(left + window, size[1])),
            )


def slide(pixels: Tensor, window: int, stride: int, answer: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of what windows say of every pixel.

    Args:
        pixels: [1, 3, H, W].
        window, stride: pixels.
        answer: a window [1, 3, h, w] -> maps [N, ...], resized bilinearly to the window.

    Returns:
        [N, H, W].
    """
    total, seen = 0.0, pixels.new_zeros(pixels.shape[-2:])
    for rows, columns in windows(tuple(pixels.shape[-2:]), window, stride):
        crop = pixels[:, :, rows, columns]
        said = F.interpolate(answer(crop)[None].float(), size=crop.shape[-2:], mode="bilinear")[0]
        if isinstance(total, float):
            total = said.new_zeros(len(said), *pixels.shape[-2:])
        total[:, rows, columns] += said
        seen[rows, columns] += 1
    return total / seen
