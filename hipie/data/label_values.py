"""Values of annotation maps that are no object or class, by the kind of the map.

| kind | value of a pixel | without annotation, and padding |
|---|---|---|
| semantic map | class index | `ignore_label` of the data set, 255 by default |
| panoptic map | segment id | 0 (void) |
| part map | class index + 1 | 0 |
| part map of a data set with `part_ignore_label` | class index | that value |
| mask of an object | 0 or 1 | 0 |

Training, evaluation and the programs that check and draw data sets read these values here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import transforms as T
from detectron2.data.catalog import Metadata
from numpy.typing import NDArray

from hipie.errors import InputError

DEFAULT_IGNORE_LABEL = 255
PANOPTIC_VOID = 0
PART_IGNORE = 0
MASK_BACKGROUND = 0


def ignore_label(metadata: Metadata) -> int:
    """Return the value of a data set's semantic maps that is not a class.

    Args:
        metadata: may have `ignore_label`; 255 by default, as in Detectron2.

    Raises:
        InputError: if `ignore_label` is not an integer.
    """
    value = metadata.get("ignore_label")
    if value is None:
        return DEFAULT_IGNORE_LABEL
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(
            f"the data set {metadata.get('name')}: its ignore_label must be an integer, not "
            f"{value!r}"
        )
    return int(value)


def background_index(metadata: Metadata, names: Sequence[str]) -> int | None:
    """Return the class of a data set that stands for pixels of none of its other classes.

    Such a class has no name to segment by: it is no object in training, no class of a prompt,
    and at test the class of pixels that no other class claims.

    Args:
        metadata: may have `background_class`, the name of that class.
        names: all classes of the data set.

    Returns:
        Its index, or None if the data set has no such class.

    Raises:
        InputError: if `background_class` is not one of the names, or the only one.
    """
    name = metadata.get("background_class")
    if name is None:
        return None
    if name not in names or len(names) == 1:
        raise InputError(
            f"the data set {metadata.get('name')}: its background_class must be one of several "
            f"classes, and {name!r} is not"
        )
    return list(names).index(name)


def offset_part_labels(labels: NDArray[Any], part_ignore_label: int | None) -> NDArray[Any]:
    """Return a part map with class index + 1, and 0 where there is no annotation.

    Args:
        labels: integers [H, W], a part map as stored.
        part_ignore_label: metadata of the data set: maps store class indices, and this value where
            there is no annotation. None = they store class index + 1 and 0.
    """
    if part_ignore_label is None:
        return labels
    offset = labels.astype(np.int32) + 1
    offset[labels == part_ignore_label] = PART_IGNORE
    return offset


def transform_labels(
    labels: NDArray[Any], transform: T.Transform, padding: int
) -> NDArray[np.int32]:
    """Apply a transform with nearest-neighbour sampling to a map of any integer type.

    Detectron2 resizes 8-bit maps only; wider ones are transformed as two planes of bytes. What it
    puts where the transform reads outside the map is replaced.

    Args:
        labels: integers 0..65535, [H, W].
        transform: resize, crop, pad, flip, rotate, ...
        padding: value of pixels outside the map; that of the map's kind.

    Raises:
        InputError: if a value is outside 0..65535.
    """
    if labels.dtype == np.uint8:
        transformed = transform.apply_segmentation(labels).astype(np.int32)
    else:
        if labels.max(initial=0) > 65535 or labels.min(initial=0) < 0:
            raise InputError("a label map has values outside 0..65535")
        low = np.ascontiguousarray((labels % 256).astype(np.uint8))
        high = np.ascontiguousarray((labels // 256).astype(np.uint8))
        transformed = transform.apply_segmentation(low).astype(np.int32) + 256 * (
            transform.apply_segmentation(high).astype(np.int32)
        )
    inside = transform.apply_segmentation(np.ones(labels.shape, dtype=np.uint8)).astype(bool)
    result: NDArray[np.int32] = np.where(inside, transformed, np.int32(padding))
    return result
