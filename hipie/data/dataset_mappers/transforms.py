"""Augmentations of training images and their captions: resize, flip, large-scale jitter.

All random numbers come from the generator that is passed in, so that the seed of an item determines
its augmentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import VFlipTransform
from numpy.typing import NDArray

from hipie.data.image_io import resized_shape
from hipie.data.label_values import MASK_BACKGROUND

IMAGE_PADDING = 128
# "left" and "right" alone, with "_" or "-" beside them, in compounds with another place ("topleft",
# "left_hand", "leftmost") and in what RefCOCO's annotators write for them; not in "bright",
# "upright", "leftover" or "rights".
_PLACES = (
    *("top", "bottom", "upper", "lower", "center", "centre", "middle", "mid", "front", "back"),
    *("rear", "far", "most", "corner", "edge"),
)
_BEFORE = "|".join([r"(?<![^\W\d_])", *(f"(?<={place})" for place in _PLACES)])
_AFTER = "|".join((*_PLACES, "wards?", "er", "hand(?:ed|er)?", "sided?", "ish", "est", "y", "ies?"))
_SIDE = re.compile(
    rf"(?:{_BEFORE})(left|right|lft|rght|rgt|rigth|rihgt|rt)(?=(?:{_AFTER})?(?![^\W\d_]))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LargeScaleJitter:
    """Settings of large-scale jitter (Ghiasi et al., CVPR 2021).

    Attributes:
        probability: of a jitter, 0..1.
        min_scale, max_scale: range of the scale; at 1 the image just fits into the square crop.
        size: side of the square crop, pixels; smaller images are padded.
    """

    probability: float = 0.5
    min_scale: float = 0.1
    max_scale: float = 2.0
    size: int = 1024


@dataclass(frozen=True)
class Augmentation:
    """Sampled augmentation of an image.

    Attributes:
        transform: applies to the image and to its label maps.
        flipped: whether the image is flipped horizontally, so that left and right change.
        cropped: whether parts of the image may be outside the crop.
    """

    transform: T.TransformList
    flipped: bool
    cropped: bool


def sample_augmentation(
    rng: np.random.Generator,
    height: int,
    width: int,
    *,
    min_sizes: Sequence[int],
    max_size: int,
    flip_prob: float = 0.5,
    flip: str = "horizontal",
    jitter: LargeScaleJitter | None = None,
    square_size: int = 0,
) -> Augmentation:
    """Sample the augmentation of one training image.

    Args:
        rng: generator of the item.
        height: height of the image, pixels.
        width: width of the image, pixels.
        min_sizes: lengths of the shorter side to sample from, pixels; 0 = no resize.
        max_size: longest length of the longer side, pixels.
        flip_prob: probability of a flip.
        flip: "horizontal", "vertical" or "none".
        jitter: large-scale jitter before the resize; None turns it off.
        square_size: side of a square that images are resized to instead; 0 keeps the aspect ratio.
    """
    min_size = int(min_sizes[rng.integers(len(min_sizes))])
    # The number is drawn in any case, so that the other random numbers do not depend on the key.
    draws_flip = bool(rng.random() < flip_prob)
    steps: list[T.Transform] = []
    if draws_flip and flip != "none":
        steps = [VFlipTransform(height) if flip == "vertical" else T.HFlipTransform(width)]
    flipped = draws_flip and flip == "horizontal"
    cropped = False
    if jitter is not None and rng.random() < jitter.probability:
        scale = float(rng.uniform(jitter.min_scale, jitter.max_scale))
        steps += _jitter_transforms(rng, height, width, jitter.size, scale)
        height = width = jitter.size
        cropped = True
    new_height, new_width = _new_shape(height, width, min_size, max_size, square_size)
    if (new_height, new_width) != (height, width):
        steps.append(T.ResizeTransform(height, width, new_height, new_width))
    return Augmentation(T.TransformList(steps or [T.NoOpTransform()]), flipped, cropped)


def training_sizes(sizes: Sequence[int], sampling: str) -> tuple[int, ...]:
    """Return the lengths of the shorter side that training samples from.

    Args:
        sizes: `INPUT.MIN_SIZE_TRAIN`.
        sampling: `INPUT.MIN_SIZE_TRAIN_SAMPLING`: "choice" of them, or the "range" from the first
            to the second.
    """
    if sampling == "range":
        return tuple(range(min(sizes), max(sizes) + 1))
    return tuple(sizes)


def resize_transform(
    height: int, width: int, min_size: int, max_size: int, square_size: int = 0
) -> T.TransformList:
    """Return the resize of a test image.

    Args:
        height: height of the image, pixels.
        width: width of the image, pixels.
        min_size: length of the shorter side, pixels; 0 = no resize.
        max_size: limit of the longer side, pixels.
        square_size: side of a square to resize to instead; 0 keeps the aspect ratio.
    """
    new_height, new_width = _new_shape(height, width, min_size, max_size, square_size)
    return T.TransformList([T.ResizeTransform(height, width, new_height, new_width)])


def inputs_at_test_size(pixels: NDArray[Any], cfg: CfgNode) -> dict[str, Any]:
    """Resize an image as models are tested, for Detectron2's models.

    Args:
        pixels: [H, W, 3] uint8 RGB.
        cfg: reads INPUT.{MIN_SIZE_TEST, MAX_SIZE_TEST, SQUARE_SIZE, FORMAT}.

    Returns:
        `image` [3, h, w] uint8, in the channel order of INPUT.FORMAT, `height` H and `width` W.
    """
    node = cfg.INPUT
    height, width = pixels.shape[:2]
    transform = resize_transform(
        height, width, node.MIN_SIZE_TEST, node.MAX_SIZE_TEST, node.SQUARE_SIZE
    )
    resized = transform.apply_image(pixels)
    if node.FORMAT == "BGR":
        resized = resized[:, :, ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
    return {"image": tensor, "height": height, "width": width}


def flip_text(text: str) -> str:
    """Swap left and right in an expression or class name, for a horizontally flipped image.

    Compounds ("leftmost", "right_hand", "topleft", "lefty") and RefCOCO's short forms ("lft", "rt")
    are swapped as well and capitals are kept; "bright", "upright" or "leftover" stay unchanged.
    """
    return _SIDE.sub(_opposite_side, text)


def _opposite_side(match: re.Match[str]) -> str:
    side = match.group(1)
    opposite = "right" if side.lower() in ("left", "lft") else "left"
    if side.isupper():
        return opposite.upper()
    return opposite.capitalize() if side[0].isupper() else opposite


def _new_shape(
    height: int, width: int, min_size: int, max_size: int, square_size: int
) -> tuple[int, int]:
    if square_size:
        return square_size, square_size
    return resized_shape(height, width, min_size, max_size)


def _jitter_transforms(
    rng: np.random.Generator, height: int, width: int, size: int, scale: float
) -> list[T.Transform]:
    """Resize to fit a square of `size * scale`, then crop or pad to a square of `size`."""
    ratio = size * scale / max(height, width)
    new_height = max(1, int(height * ratio + 0.5))
    new_width = max(1, int(width * ratio + 0.5))
    crop_height, crop_width = min(new_height, size), min(new_width, size)
    top = int(rng.integers(new_height - crop_height + 1))
    left = int(rng.integers(new_width - crop_width + 1))
    steps: list[T.Transform] = [
        T.ResizeTransform(height, width, new_height, new_width),
        T.CropTransform(left, top, crop_width, crop_height),
    ]
    if (crop_height, crop_width) != (size, size):
        steps.append(
            T.PadTransform(
                0,
                0,
                size - crop_width,
                size - crop_height,
                crop_width,
                crop_height,
                pad_value=IMAGE_PADDING,
                seg_pad_value=MASK_BACKGROUND,
            )
        )
    return steps
