"""A segmenter without a model: labelled halves of an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hipie.segmentation import Segment, Segmentation

IDENTITY = {"program": "stub", "things": ["dog"], "config": {"A.B": 1}, "weights": "abc"}
SETTINGS = {"program": "hipie segment", "min_area": None}


def segment(pixels: np.ndarray) -> Segmentation:
    """Segment the upper half as a dog with a head, the lower half as grass."""
    height, width = pixels.shape[:2]
    masks = np.zeros((3, height, width), bool)
    masks[0, : height // 2], masks[1, height // 2 :] = True, True
    masks[0, 1:3, 2:5] = False
    masks[2, : height // 4, : width // 2] = masks[0, : height // 4, : width // 2]
    head = Segment("head", "part", masks[2], 0.5)
    segments = [
        Segment("dog", "thing", masks[0], 0.75, (head,)),
        Segment("grass", "stuff", masks[1], 0.5),
    ]
    return Segmentation(pixels, segments, ("dog", "cat", "grass"))


def write_image(path: Path, value: int = 0, size: tuple[int, int] = (20, 30)) -> Path:
    """Write an image whose pixels say its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)
    return path
