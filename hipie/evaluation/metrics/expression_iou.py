"""IoU of predicted masks with the targets of referring expressions, and the scores made of it.

Masks remain RLEs where prediction and target are: pycocotools intersects RLEs without decoding
them, about thirty times faster than arrays (`benchmarks/data.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import Instances
from numpy.typing import NDArray

from hipie.data.io.rle import RLE, merge_rles, to_rle
from hipie.errors import InputError
from hipie.evaluation.metrics.averages import from_fixed_point, ratio, to_fixed_point

PRECISION_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class MaskOverlap(NamedTuple):
    """Pixel counts of a predicted mask and a target.

    Attributes:
        intersection: pixels in both.
        union: pixels in either.
        predicted: pixels of the prediction.
    """

    intersection: int
    union: int
    predicted: int

    @property
    def iou(self) -> float:
        """Intersection over union; 0 if both masks are empty."""
        return self.intersection / self.union if self.union else 0.0


class OverlapCounts:
    """Sums over the mask overlaps of expressions, from which all scores are computed.

    All are integers, and so their sums over processes are exact.

    Attributes:
        expressions: number of overlaps.
        intersection, union: sums, pixels.
        non_empty: predictions with at least one pixel.
        iou: sum of the IoUs, by `to_fixed_point`.
        at_least: overlaps with an IoU of at least each of `PRECISION_THRESHOLDS`.
    """

    def __init__(self, integers: Sequence[int] = ()) -> None:
        values = list(integers) or [0] * (5 + len(PRECISION_THRESHOLDS))
        self.expressions, self.intersection, self.union, self.non_empty, self.iou = values[:5]
        self.at_least = values[5:]

    def add(self, overlap: MaskOverlap) -> None:
        """Count the overlap of one expression."""
        iou = overlap.iou
        self.expressions += 1
        self.intersection += overlap.intersection
        self.union += overlap.union
        self.non_empty += overlap.predicted > 0
        self.iou += to_fixed_point(iou)
        for index, threshold in enumerate(PRECISION_THRESHOLDS):
            self.at_least[index] += iou >= threshold

    def integers(self) -> list[int]:
        """Return all counts as a list, the argument of the constructor."""
        first = [self.expressions, self.intersection, self.union, self.non_empty, self.iou]
        return first + self.at_least

    def overall_iou(self) -> float:
        """Return the sum of intersections over that of unions in percent; 0 if all are empty."""
        return 100.0 * self.intersection / max(self.union, 1)

    def mean_iou(self) -> float:
        """Return the mean IoU in percent; NaN without expressions."""
        return ratio(from_fixed_point(self.iou), self.expressions)

    def precision(self, threshold: float) -> float:
        """Return the fraction with at least an IoU of `PRECISION_THRESHOLDS`, in percent."""
        return ratio(self.at_least[PRECISION_THRESHOLDS.index(threshold)], self.expressions)

    def referring_scores(self) -> dict[str, float]:
        """Compute the scores of `referring_scores`."""
        scores = {
            "oIoU": self.overall_iou() if self.expressions else float("nan"),
            "mIoU": self.mean_iou(),
        }
        for threshold in PRECISION_THRESHOLDS:
            scores[f"P@{threshold}"] = self.precision(threshold)
        return scores


def mask_overlap(prediction: RLE | NDArray[Any], target: RLE | NDArray[Any]) -> MaskOverlap:
    """Count the overlap of a predicted mask and a target of the same size.

    Args:
        prediction: RLE, or bool array [H, W].
        target: RLE, or bool array [H, W].
    """
    if isinstance(prediction, np.ndarray) or isinstance(target, np.ndarray):
        return _array_overlap(_to_array(prediction), _to_array(target))
    intersection = int(mask_util.area(mask_util.merge([prediction, target], True)))
    predicted = int(mask_util.area(prediction))
    union = predicted + int(mask_util.area(target)) - intersection
    return MaskOverlap(intersection, union, predicted)


def resized_mask_overlap(
    prediction: RLE | NDArray[Any], target: RLE | NDArray[Any], side: int
) -> MaskOverlap:
    """Count the overlap after both masks are resized to `side` x `side`, as LAVT and DMMI do."""
    return _array_overlap(
        resize_nearest(_to_array(prediction), side, side),
        resize_nearest(_to_array(target), side, side),
    )


def resize_nearest(mask: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Resize a mask [H, W] by nearest neighbour as Pillow does, with pixel centres aligned."""
    rows = ((np.arange(height) + 0.5) * (mask.shape[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (mask.shape[1] / width)).astype(np.int64)
    resized: NDArray[Any] = mask[rows[:, None], columns]
    return resized


def target_rles(record: Mapping[str, Any]) -> list[RLE]:
    """Compute the union of the objects that each expression of a record describes.

    Args:
        record: with `height`, `width`, `annotations` and `expressions`.

    Returns:
        One RLE an expression; an empty mask for an expression without targets.
    """
    size = record["height"], record["width"]
    objects = [to_rle(annotation["segmentation"], *size) for annotation in record["annotations"]]
    return [
        merge_rles([objects[target] for target in expression["targets"]], *size)
        for expression in record["expressions"]
    ]


def predicted_mask(
    instances: Instances, file_name: str, height: int, width: int
) -> RLE | NDArray[Any]:
    """Compute the union of the predicted masks of an expression.

    Args:
        instances: with `pred_masks` [n, H, W], or with Detectron2's `pred_masks_rle`, a list of n
            RLEs; n = 0 is an empty mask.
        file_name: of the image, for the error message.
        height: height of the image, pixels.
        width: width of the image, pixels.

    Returns:
        An RLE for RLEs, else bool [H, W].

    Raises:
        ValueError: if the masks are of another size.
    """
    if instances.has("pred_masks_rle"):
        rles = list(instances.pred_masks_rle)
        for rle in rles:
            _check_size(file_name, tuple(rle["size"]), (height, width))
        return merge_rles(rles, height, width)
    masks: NDArray[Any] = instances.pred_masks.detach().cpu().numpy().astype(bool)
    if len(masks) == 0:
        return np.zeros((height, width), dtype=bool)
    _check_size(file_name, masks.shape[1:], (height, width))
    union: NDArray[Any] = masks.any(axis=0)
    return union


def match_expressions(
    record: Mapping[str, Any], predictions: Sequence[Instances]
) -> Iterator[tuple[dict[str, Any], RLE | NDArray[Any], RLE]]:
    """Yield expression, predicted mask and target mask of every expression of an image.

    Raises:
        ValueError: if the number of predictions is not that of the expressions, or a prediction
            is of another size than the image.
    """
    if len(predictions) != len(record["expressions"]):
        raise InputError(
            f"{record['file_name']}: {len(record['expressions'])} expressions, but "
            f"{len(predictions)} predictions"
        )
    size = record["height"], record["width"]
    for expression, instances, target in zip(
        record["expressions"], predictions, target_rles(record), strict=True
    ):
        yield expression, predicted_mask(instances, record["file_name"], *size), target


def referring_scores(overlaps: Iterable[MaskOverlap]) -> dict[str, float]:
    """Compute oIoU, mIoU and P@X in percent, as LAVT (Yang et al., CVPR 2022) defines them.

    oIoU is the sum of all intersections over the sum of all unions, mIoU the mean IoU, P@X the
    fraction of samples with an IoU of at least X. NaN without samples; oIoU is 0 if all masks are
    empty. The scores do not depend on the order of samples.

    Args:
        overlaps: one an expression.
    """
    counts = OverlapCounts()
    for overlap in overlaps:
        counts.add(overlap)
    return counts.referring_scores()


def _array_overlap(prediction: NDArray[Any], target: NDArray[Any]) -> MaskOverlap:
    intersection = int(np.count_nonzero(prediction & target))
    predicted = int(np.count_nonzero(prediction))
    union = predicted + int(np.count_nonzero(target)) - intersection
    return MaskOverlap(intersection, union, predicted)


def _to_array(mask: RLE | NDArray[Any]) -> NDArray[Any]:
    if isinstance(mask, np.ndarray):
        return mask
    decoded: NDArray[Any] = mask_util.decode(mask).astype(bool)
    return decoded


def _check_size(file_name: str, size: tuple[int, ...], expected: tuple[int, int]) -> None:
    if tuple(size) != expected:
        raise InputError(
            f"{file_name}: a prediction of {tuple(size)} pixels for an image of {expected}"
        )
