"""Repeat factors of images, by which rare classes are seen more often (LVIS)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.data.annotation_maps import read_class_map
from hipie.data.image_io import distinct_values
from hipie.data.label_values import PART_IGNORE, offset_part_labels


def repeat_factors(
    classes: Sequence[Collection[int]], threshold: float, square_root: bool = True
) -> NDArray[np.float64]:
    """Compute how often every image is drawn in a pass over a data set.

    With f(c), the share of images with the class c, the factor of a class is
    max(1, sqrt(threshold / f(c))), and that of an image the largest of its classes (Gupta et al.,
    LVIS, CVPR 2019, section 5.2; appendix B.2 of version 2).

    Args:
        classes: classes of every image.
        threshold: share of images below which a class is repeated, 0..1.
        square_root: False leaves out the square root.

    Returns:
        [N], at least 1.
    """
    counts = Counter(index for present in classes for index in set(present))
    factors = {}
    for index, count in counts.items():
        ratio = threshold * len(classes) / count
        factors[index] = max(1.0, ratio**0.5 if square_root else ratio)
    return np.array([max((factors[i] for i in present), default=1.0) for present in classes])


def record_classes(
    record: Mapping[str, Any], ignore_label: int, part_ignore_label: int | None = None
) -> set[int]:
    """Return the classes of a record's objects; label maps are read for it, crowds do not count.

    Args:
        record: see `UniversalDatasetMapper`.
        ignore_label: the value of semantic maps that is not a class.
        part_ignore_label: see `offset_part_labels`.

    Raises:
        ValueError, FileNotFoundError: naming a label map that cannot be read.
    """
    if "part_seg_file_name" in record:
        labels = read_class_map(record["part_seg_file_name"])
        values = distinct_values(offset_part_labels(labels, part_ignore_label))
        return {value - 1 for value in values if value != PART_IGNORE}
    for key in ("segments_info", "annotations"):
        if key in record:
            return {entry["category_id"] for entry in record[key] if not entry.get("iscrowd", 0)}
    if "sem_seg_file_name" not in record:
        return set()
    values = distinct_values(read_class_map(record["sem_seg_file_name"]))
    return {value for value in values if value != ignore_label}
