"""What a model answered to an expression, against what the expression means, in pixels.

Masks stay run lengths where both sides have them: pycocotools intersects those without drawing
them, some thirty times faster than arrays (`benchmarks/data.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import Instances

from hipie.data.io.rle import RLE, merge_rles, to_rle
from hipie.evaluation.metrics.iou import Overlap, overlap


def target_runs(record: Mapping[str, Any]) -> list[RLE]:
    """What every expression of a record means: the union of its objects, empty if nothing."""
    size = record["height"], record["width"]
    objects = [to_rle(one["segmentation"], *size) for one in record["annotations"]]
    return [
        merge_rles([objects[place] for place in expression["targets"]], *size)
        for expression in record["expressions"]
    ]


def overlap_of_runs(answer: RLE, target: RLE) -> Overlap:
    """Overlap of two masks of one size."""
    both = int(mask_util.area(mask_util.merge([answer, target], True)))
    answered = int(mask_util.area(answer))
    return Overlap(both, answered + int(mask_util.area(target)) - both, answered)


def answer_of(instances: Instances, where: str, height: int, width: int) -> RLE | np.ndarray:
    """The union of an answer's masks, in the form in which it has them.

    Args:
        instances: with `pred_masks` [n, H, W], or with Detectron2's `pred_masks_rle`, a list of n
            compressed run lengths; n = 0 is an empty answer.
        where: the image, for the error.
        height, width: of the image.

    Raises:
        ValueError: if the masks are of another size.
    """
    if instances.has("pred_masks_rle"):
        runs = list(instances.pred_masks_rle)
        for one in runs:
            _check_size(where, tuple(one["size"]), (height, width))
        return merge_rles(runs, height, width)
    masks = instances.pred_masks.detach().cpu().numpy().astype(bool)
    if len(masks) == 0:
        return np.zeros((height, width), dtype=bool)
    _check_size(where, masks.shape[1:], (height, width))
    return masks.any(axis=0)


def overlap_with(answer: RLE | np.ndarray, target: RLE) -> Overlap:
    """Overlap of an answer of either form with what was meant."""
    if isinstance(answer, np.ndarray):
        return overlap(answer, mask_util.decode(target).astype(bool))
    return overlap_of_runs(answer, target)


def overlap_at(answer: RLE | np.ndarray, target: RLE, side: int) -> Overlap:
    """Overlap after both are resized to side x side pixels, as LAVT and DMMI compare masks."""
    drawn = answer if isinstance(answer, np.ndarray) else mask_util.decode(answer).astype(bool)
    wanted = mask_util.decode(target).astype(bool)
    return overlap(nearest(drawn, side, side), nearest(wanted, side, side))


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask [H, W] resized by Pillow's rule: each pixel takes the one under its centre."""
    rows = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (mask.shape[1] / width)).astype(np.int64)
    return mask[rows[:, None], columns]


def expressions_with_answers(
    record: Mapping[str, Any], answers: list[Instances]
) -> Iterator[tuple[dict[str, Any], RLE | np.ndarray, RLE]]:
    """Expression, answer and target of every expression of an image.

    Raises:
        ValueError: if there are fewer or more answers than expressions, or one of another size.
    """
    if len(answers) != len(record["expressions"]):
        raise ValueError(
            f"{record['file_name']}: {len(record['expressions'])} expressions, but "
            f"{len(answers)} answers"
        )
    size = record["height"], record["width"]
    for expression, answer, target in zip(
        record["expressions"], answers, target_runs(record), strict=True
    ):
        yield expression, answer_of(answer, record["file_name"], *size), target


def _check_size(where: str, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if tuple(found) != wanted:
        raise ValueError(f"{where}: an answer of {tuple(found)} pixels for an image of {wanted}")
