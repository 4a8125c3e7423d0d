"""PartPQ of one image: matched segments, and how well their parts agree.

de Geus et al., "Part-aware Panoptic Segmentation", CVPR 2021. A predicted and a true segment of one
class match if their IoU is above 0.5. A match of a class with parts counts with the mean IoU of its
parts (and of "no part"), a match of another class with its own IoU. PartPQ of a class is the sum
of these over matches plus half of the segments, found or true, without a match.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hipie.data.datasets.panoptic_parts import NO_OBJECT, PanopticParts
from hipie.data.datasets.part_classes import PartClass

UNKNOWN_PART = 255
"""A predicted part that is none of the class's: misses its truth, and is no class of its own."""


@dataclass
class ClassCounts:
    """What was counted for one class: the IoU of every match, and what had no match."""

    ious: list[float] = field(default_factory=list)
    false: int = 0
    missed: int = 0


@dataclass(frozen=True)
class FoundSegment:
    """A predicted segment: a bool mask [H, W] and the parts inside it, integers [H, W]."""

    mask: np.ndarray
    parts: np.ndarray


def image_counts(
    truth: PanopticParts,
    found: Mapping[int, Sequence[FoundSegment]],
    classes: Sequence[PartClass],
) -> list[ClassCounts]:
    """Compare one image.

    Pixels of no class, and objects of things without a number, are not judged; nor are segments
    of a class with parts on which no part is labelled.

    Args:
        truth: the labels.
        found: predicted segments by the class's position in `classes`; they do not overlap.
        classes: what is counted.

    Returns:
        one a class.
    """
    known = [number for one in classes for number in one.numbers]
    void = ~np.isin(truth.classes, known)
    return [
        _class_counts(truth, found.get(place, ()), one, void) for place, one in enumerate(classes)
    ]


def _class_counts(
    truth: PanopticParts, found: Iterable[FoundSegment], one: PartClass, void: np.ndarray
) -> ClassCounts:
    wanted, crowd = _true_segments(truth, one)
    ignored = void | crowd
    counts = ClassCounts()
    unmatched = [segment for segment in found if segment.mask.any()]
    for mask, parts in wanted:
        match = None
        for place, segment in enumerate(unmatched):
            iou = _segment_iou(mask, segment.mask, void)
            if iou > 0.5:
                match = place, iou
                break
        if match is None:
            counts.missed += 1
            continue
        segment = unmatched.pop(match[0])
        judged = ~(ignored | (mask & (parts == 0)))
        value = _part_iou(parts, segment, judged) if one.has_parts else match[1]
        counts.ious.append(value)
    for segment in unmatched:
        inside = np.count_nonzero(segment.mask & ignored)
        counts.false += inside / np.count_nonzero(segment.mask) <= 0.5
    return counts


def _true_segments(
    truth: PanopticParts, one: PartClass
) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Masks and parts of a class's segments, and the pixels of it that are not judged."""
    table = np.zeros(max([0, *one.parts, int(truth.parts.max(initial=0))]) + 1, dtype=np.int64)
    for number, place in one.parts.items():
        table[number] = place
    segments = []
    crowd = np.zeros(truth.classes.shape, dtype=bool)
    for number in one.numbers:
        of_class = truth.classes == number
        for name in np.unique(truth.objects[of_class]):
            mask = of_class & (truth.objects == name)
            parts = np.where(mask, table[truth.parts], 0)
            if (one.thing and name == NO_OBJECT) or (one.has_parts and not parts.any()):
                crowd |= mask
            else:
                segments.append((mask, parts))
    return segments, crowd


def _segment_iou(wanted: np.ndarray, found: np.ndarray, void: np.ndarray) -> float:
    both = np.count_nonzero(wanted & found)
    either = np.count_nonzero(wanted | found) - np.count_nonzero(void & found)
    return both / either if either > 0 else 0.0


def _part_iou(wanted: np.ndarray, segment: FoundSegment, judged: np.ndarray) -> float:
    """The mean IoU of parts that the truth or the prediction shows, "no part" among them."""
    true_parts = wanted[judged]
    found_parts = np.where(segment.mask, segment.parts, 0)[judged]
    shown = np.union1d(true_parts, found_parts)
    ious = [
        np.count_nonzero((true_parts == part) & (found_parts == part))
        / np.count_nonzero((true_parts == part) | (found_parts == part))
        for part in shown
        if part != UNKNOWN_PART
    ]
    return float(np.mean(ious)) if ious else 0.0
