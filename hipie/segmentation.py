"""What a `Segmenter` answers: masks with names, and ways to look at them and to keep them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


@dataclass
class Segment:
    """One thing, stretch of stuff, part, or answer to an expression.

    Attributes:
        label: the class name or expression.
        kind: "thing", "stuff", "part" or "expression".
        mask: [H, W] bool.
        score: 0..1.
        parts: the parts that were found, for a thing; a part has parts of its own.
    """

    label: str
    kind: str
    mask: np.ndarray
    score: float
    parts: list[Segment] = field(default_factory=list)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 around the mask in pixels; zeros for an empty mask."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return (0.0, 0.0, 0.0, 0.0)
        return (
            float(columns[0]),
            float(rows[0]),
            float(columns[-1] + 1),
            float(rows[-1] + 1),
        )


@dataclass
class Segmentation:
    """The segments of one image.

    Attributes:
        image: [H, W, 3] uint8 RGB, as it was given.
        segments: in the order found; an expression that describes nothing has an empty mask.
    """

    image: np.ndarray
    segments: list[Segment]

    def __len__(self) -> int:
        return len(self.segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.segments)

    @property
    def masks(self) -> np.ndarray:
        """[N, H, W] bool."""
        if not self.segments:
            return np.zeros((0, *self.image.shape[:2]), bool)
        return np.stack([segment.mask for segment in self.segments])

    @property
    def boxes(self) -> np.ndarray:
        """[N, 4] x1, y1, x2, y2 in pixels."""
        return np.array([segment.box for segment in self.segments], np.float32).reshape(-1, 4)

    @property
    def scores(self) -> np.ndarray:
        """[N] 0..1."""
        return np.array([segment.score for segment in self.segments], np.float32)

    @property
    def labels(self) -> list[str]:
        """N class names or expressions."""
        return [segment.label for segment in self.segments]

    @property
    def parts(self) -> dict[str, list[Segment]]:
        """Every part found, under the name of its whole; parts of parts under that part's."""
        by_whole: dict[str, list[Segment]] = {}
        for _, segment in self.walk():
            if segment.parts:
                by_whole.setdefault(segment.label, []).extend(segment.parts)
        return by_whole

    def walk(self) -> Iterator[tuple[int, Segment]]:
        """Every segment of the tree with its depth (0, then 1 for parts), parts after wholes."""
        yield from _walk(self.segments, 0)

    @property
    def tree(self) -> str:
        """The names as an indented list, one segment a line, with scores and areas."""
        return "\n".join(
            f"{'  ' * depth}{one.label} {one.score:.2f} ({int(one.mask.sum())} pixels)"
            for depth, one in self.walk()
        )

    @property
    def consistency(self) -> float:
        """The share of parts' pixels that lie in what they are parts of; 1 without any part."""
        inside = total = 0
        for _, whole in self.walk():
            for part in whole.parts:
                inside += int((part.mask & whole.mask).sum())
                total += int(part.mask.sum())
        return inside / total if total else 1.0

    def draw(self, title: str = "") -> Image.Image:
        """The image with its masks, and a legend beside it."""
        from hipie.visualizer import draw_segments

        return draw_segments(self.image, self.segments, title)

    def save(self, path: str | Path, title: str = "") -> Path:
        """Write `draw()` to an image file, or `to_coco()` where the name ends in .json."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".json":
            path.write_text(json.dumps(self.to_coco(), indent=1))
        else:
            self.draw(title).save(path)
        return path

    def to_coco(self) -> list[dict[str, Any]]:
        """Every segment as COCO result: label, kind, score, xywh box, area and RLE; parts inside.

        `segmentation` has `size` (height, width) and `counts` (a compressed RLE string).
        """
        return [_to_coco(segment) for segment in self.segments]


def _walk(segments: list[Segment], depth: int) -> Iterator[tuple[int, Segment]]:
    for segment in segments:
        yield depth, segment
        yield from _walk(segment.parts, depth + 1)


def _to_coco(segment: Segment) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(segment.mask.astype(np.uint8)))
    x1, y1, x2, y2 = segment.box
    result = {
        "label": segment.label,
        "kind": segment.kind,
        "score": round(float(segment.score), 4),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": int(segment.mask.sum()),
        "segmentation": {"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode()},
    }
    if segment.parts:
        result["parts"] = [_to_coco(part) for part in segment.parts]
    return result
