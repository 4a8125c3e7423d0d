"""Annotations as Pascal-Part distributes them: MATLAB 5 files with nested structs, compressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

Mask = np.ndarray


def structs(rows: Sequence[dict[str, Any]], fields: Sequence[str]) -> np.ndarray:
    """A 1xN row of structs, or MATLAB's empty matrix."""
    if not rows:
        return np.zeros((0, 0))
    row = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for place, one in enumerate(rows):
        for field in fields:
            row[0, place][field] = one[field]
    return row


def thing(name: str, number: int, mask: Mask, parts: dict[str, Mask]) -> dict[str, Any]:
    """An object with its parts."""
    rows = [{"part_name": key, "mask": value.astype(np.uint8)} for key, value in parts.items()]
    return {
        "class": name,
        "class_ind": float(number),
        "mask": mask.astype(np.uint8),
        "parts": structs(rows, ("part_name", "mask")),
    }


def write_annotation(path: Path, objects: Sequence[dict[str, Any]]) -> None:
    """Write `anno` of one image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = structs(objects, ("class", "class_ind", "mask", "parts"))
    anno = {"imname": path.stem, "objects": row}
    scipy.io.savemat(path, {"anno": anno}, do_compression=True)
