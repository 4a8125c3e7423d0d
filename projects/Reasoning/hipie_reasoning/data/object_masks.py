"""Masks of what questions are about, from records of any form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.data.annotation_maps import panoptic_ids, read_panoptic_map
from hipie.data.dataset_mappers.annotations import decode_mask
from hipie.data.image_io import read_label_map


class ObjectMaskReader:
    """Reads the masks of one record.

    `targets` of a question are positions in the record's `masks` or `annotations` (RLEs or
    polygons), ids of segments of its panoptic map, or classes of its semantic map.

    Args:
        record: with `height` and `width`.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self._labels: NDArray[Any] | None = None

    def union(self, targets: Sequence[int]) -> NDArray[np.bool_]:
        """Return the union [H, W] of objects; empty without any."""
        size = self._record["height"], self._record["width"]
        if "masks" in self._record or "annotations" in self._record:
            mask = np.zeros(size, bool)
            for target in targets:
                mask |= decode_mask(self._segmentation(target), *size).astype(bool)
            return mask
        if self._labels is None:
            self._labels = self._read_labels()
        return np.isin(self._labels, list(targets))

    def values(self) -> list[int]:
        """Return the classes of a semantic map, or the ids of a panoptic map."""
        if self._labels is None:
            self._labels = self._read_labels()
        return [int(value) for value in np.unique(self._labels)]

    def _segmentation(self, target: int) -> Any:
        if "masks" in self._record:
            return self._record["masks"][target]
        return self._record["annotations"][target]["segmentation"]

    def _read_labels(self) -> NDArray[Any]:
        if "pan_seg_file_name" in self._record:
            return panoptic_ids(read_panoptic_map(self._record["pan_seg_file_name"]))
        return read_label_map(self._record["sem_seg_file_name"])
