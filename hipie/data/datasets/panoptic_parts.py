"""The labels of the Panoptic Parts data sets: class, object and part of a pixel in one number.

de Geus et al., CVPR 2021. A number is `class` (up to 99), `class * 1000 + object` (up to 99999), or
`class * 100000 + object * 100 + part`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NO_OBJECT = -1


@dataclass(frozen=True)
class PanopticParts:
    """Three maps of one image, int64 [H, W] each.

    Attributes:
        classes: number of the scene class.
        objects: number of the object, `NO_OBJECT` where the label gives none.
        parts: number of the part within its class, 0 where there is none.
    """

    classes: np.ndarray
    objects: np.ndarray
    parts: np.ndarray


def decode_uids(uids: np.ndarray) -> PanopticParts:
    """Take the numbers of a label map apart.

    Args:
        uids: integers [H, W], 0 to 9999999.

    Raises:
        ValueError: if a number is outside of that.
    """
    numbers = np.asarray(uids).astype(np.int64)
    if numbers.size and (numbers.min() < 0 or numbers.max() > 9_999_999):
        raise ValueError(f"a label of panoptic parts is {numbers.max()}; they go from 0 to 9999999")
    with_part, with_object = numbers >= 100_000, numbers >= 1_000
    short = np.where(with_part, numbers // 100, numbers)
    return PanopticParts(
        classes=np.where(with_object, short // 1_000, numbers),
        objects=np.where(with_object, short % 1_000, NO_OBJECT),
        parts=np.where(with_part, numbers % 100, 0),
    )
