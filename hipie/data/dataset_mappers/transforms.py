"""How a training image is changed: a size, a mirror, and now and then another scale and crop.

Everything is drawn from the generator that is passed in, so an item's seed decides all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.data import transforms as T

from hipie.data.image_io import resized_shape

IMAGE_PADDING = 128
LABEL_PADDING = 0


@dataclass(frozen=True)
class Jitter:
    """Scale jitter with a fixed crop ("large-scale jitter", Ghiasi et al., CVPR 2021).

    Attributes:
        probability: how often an image is jittered, 0..1.
        min_scale, max_scale: the image is fitted into the crop's square times a number between.
        size: side of the square crop in pixels; smaller images are padded.
    """

    probability: float = 0.5
    min_scale: float = 0.1
    max_scale: float = 2.0
    size: int = 1024


@dataclass(frozen=True)
class Change:
    """A drawn change: the transform, and what else has to know of it.

    Attributes:
        transform: applies to the image and to its label maps.
        mirrored: left and right are swapped.
        cropped: parts of the image may be gone.
    """

    transform: T.TransformList
    mirrored: bool
    cropped: bool


def draw_change(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    shortest: Sequence[int],
    longest: int,
    mirror: float = 0.5,
    jitter: Jitter | None = None,
    square: int = 0,
) -> Change:
    """Draw how one training image is changed.

    Args:
        rng: the item's own generator.
        height, width: size of the image, pixels.
        shortest: lengths of the shorter side to choose from.
        longest: the longer side is at most this.
        mirror: probability of a horizontal flip.
        jitter: scale jitter and crop before the resize; None turns it off.
        square: side of the square that comes out instead; 0 keeps the shape.
    """
    target = int(shortest[rng.integers(len(shortest))])
    mirrored = bool(rng.random() < mirror)
    steps: list[T.Transform] = [T.HFlipTransform(width)] if mirrored else []
    cropped = False
    if jitter is not None and rng.random() < jitter.probability:
        scale = float(rng.uniform(jitter.min_scale, jitter.max_scale))
        steps += _jittered(rng, height, width, jitter.size, scale)
        height = width = jitter.size
        cropped = True
    new_height, new_width = _new_shape(height, width, target, longest, square)
    if (new_height, new_width) != (height, width):
        steps.append(T.ResizeTransform(height, width, new_height, new_width))
    return Change(T.TransformList(steps or [T.NoOpTransform()]), mirrored, cropped)


def plain_resize(
    height: int, width: int, shortest: int, longest: int, square: int = 0
) -> T.TransformList:
    """The resize of test images: to a shorter side, or to a square of the side `square`."""
    new_height, new_width = _new_shape(height, width, shortest, longest, square)
    return T.TransformList([T.ResizeTransform(height, width, new_height, new_width)])


def _new_shape(
    height: int, width: int, shortest: int, longest: int, square: int
) -> tuple[int, int]:
    return (square, square) if square else resized_shape(height, width, shortest, longest)


def _jittered(
    rng: np.random.Generator, height: int, width: int, size: int, scale: float
) -> list[T.Transform]:
    """Fit into a square of `size * scale`, then cut or pad to a square of `size`."""
    ratio = size * scale / max(height, width)
    new_height = max(1, int(height * ratio + 0.5))
    new_width = max(1, int(width * ratio + 0.5))
    cut_height, cut_width = min(new_height, size), min(new_width, size)
    top = int(rng.integers(new_height - cut_height + 1))
    left = int(rng.integers(new_width - cut_width + 1))
    steps: list[T.Transform] = [
        T.ResizeTransform(height, width, new_height, new_width),
        T.CropTransform(left, top, cut_width, cut_height),
    ]
    if (cut_height, cut_width) != (size, size):
        steps.append(
            T.PadTransform(
                0,
                0,
                size - cut_width,
                size - cut_height,
                cut_width,
                cut_height,
                pad_value=IMAGE_PADDING,
                seg_pad_value=LABEL_PADDING,
            )
        )
    return steps
