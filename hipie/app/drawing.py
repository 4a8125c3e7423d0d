"""Masks over an image for the page: all of them, or one alone, in any opacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hipie.segmentation import Segment, Segmentation
from hipie.visualizer import colour_of

# Pixels of an outline, for each so many pixels of the image's longer side.
OUTLINE_SIDE = 500


@dataclass(frozen=True)
class Entry:
    """A segment or part in the legend.

    Attributes:
        text: number, name, score, and how deep it is below its whole.
        colour: RGB.
        segment: it.
    """

    text: str
    colour: tuple[int, int, int]
    segment: Segment


def entries_of(result: Segmentation) -> list[Entry]:
    """Return the legend of a result, wholes before their parts; texts are unique."""
    entries = []
    for number, (depth, segment) in enumerate(result.walk()):
        state = f"{segment.score:.2f}" if segment.area else f"{segment.score:.2f}, nothing found"
        text = f"{number + 1}. {'– ' * depth}{segment.label} ({state})"
        entries.append(Entry(text, colour_of(number), segment))
    return entries


def paint(
    image: NDArray[Any], entries: Sequence[Entry], opacity: float = 0.5, only: str = ""
) -> NDArray[Any]:
    """Paint masks over an image, with outlines.

    Args:
        image: [H, W, 3] uint8 RGB.
        entries: in the order in which they are painted.
        opacity: of the colours, 0 to 1.
        only: the text of the only entry that is painted; "" for all.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    canvas = image.astype(np.float32)
    chosen = [entry for entry in entries if only in ("", entry.text)]
    # Stuff is below the rest; sorting is stable.
    for entry in sorted(chosen, key=lambda entry: entry.segment.kind != "stuff"):
        mask = entry.segment.mask
        canvas[mask] = canvas[mask] * (1 - opacity) + np.array(entry.colour, np.float32) * opacity
    painted = canvas.round().astype(np.uint8)
    width = max(1, round(max(image.shape[:2]) / OUTLINE_SIDE))
    for entry in chosen:
        outlines, _ = cv2.findContours(
            entry.segment.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
        )
        cv2.drawContours(painted, outlines, -1, entry.colour, width)
    return painted


def swatches(entries: Sequence[Entry], element: str) -> str:
    """Return a style sheet that gives the legend's choices their colours.

    Args:
        entries: the choices after the first one, which stands for all.
        element: id of the group of choices.
    """
    rules = [
        f"#{element} label:nth-of-type({number}) > span::before"
        f"{{content:'';display:inline-block;width:.9em;height:.9em;margin-right:.4em;"
        f"border:1px solid currentColor;background:rgb{entry.colour}}}"
        for number, entry in enumerate(entries, 2)
    ]
    return f"<style>{''.join(rules)}</style>"
