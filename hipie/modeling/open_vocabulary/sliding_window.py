"""Sliding-window inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.open_vocabulary.error import OpenVocabularyError


@dataclass(frozen=True)
class SlidingWindowConfig:
    """Sliding windows over an image.

    Attributes:
        window: side of a window in pixels; 0 processes the image at once.
        stride: distance of neighbouring windows in pixels.
        keys: name of the node with the keys WINDOW and STRIDE, for error messages.
    """

    window: int = 0
    stride: int = 112
    keys: str = "MODEL.TRAINING_FREE"

    def __post_init__(self) -> None:
        """Check that windows leave no pixel out.

        Raises:
            OpenVocabularyError: naming both keys.
        """
        if self.window and not 1 <= self.stride <= self.window:
            raise OpenVocabularyError(
                f"{self.keys}.STRIDE is {self.stride}, but {self.keys}.WINDOW is {self.window}: "
                "windows would leave pixels out"
            )


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of the windows along a side; the last window ends with the side."""
    if length <= window:
        return [0]
    steps = -(-(length - window) // stride)
    return [min(step * stride, length - window) for step in range(steps + 1)]


def windows(size: tuple[int, int], window: int, stride: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of every window over (height, width).

    Raises:
        OpenVocabularyError: if windows would leave pixels out.
    """
    if not 1 <= stride <= window:
        raise OpenVocabularyError(f"windows of {window} pixels cannot have a stride of {stride}")
    for top in window_starts(size[0], window, stride):
        for left in window_starts(size[1], window, stride):
            yield (
                slice(top, min(top + window, size[0])),
                slice(left, min(left + window, size[1])),
            )


def sliding_window_inference(
    pixels: Tensor, window: int, stride: int, predict: Callable[[Tensor], Tensor]
) -> Tensor:
    """Average the predictions of windows for every pixel.

    Args:
        pixels: [1, 3, H, W].
        window: side of a window in pixels.
        stride: distance of neighbouring windows in pixels.
        predict: a window [1, 3, h, w] -> maps [N, ...], resized bilinearly to the window.

    Returns:
        [N, H, W].
    """
    total: Tensor | None = None
    count = pixels.new_zeros(pixels.shape[-2:])
    height, width = pixels.shape[-2:]
    for rows, columns in windows((height, width), window, stride):
        crop = pixels[:, :, rows, columns]
        maps = F.interpolate(predict(crop)[None].float(), size=crop.shape[-2:], mode="bilinear")[0]
        if total is None:
            total = maps.new_zeros(len(maps), *pixels.shape[-2:])
        total[:, rows, columns] += maps
        count[rows, columns] += 1
    assert total is not None
    return total / count
