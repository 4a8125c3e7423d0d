"""Co-saliency: does a grey map show what a group of images has in common?"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.data.image_io import read_saliency_mask
from hipie.evaluation.distributed import gather_lists
from hipie.evaluation.group_predictions import answered_map, images_of_batch
from hipie.evaluation.metrics.averages import mean
from hipie.evaluation.metrics.expression_iou import answer_of
from hipie.evaluation.metrics.saliency import (
    enhanced_alignment,
    f_measure,
    mean_absolute_error,
    stretched,
    structure,
)


class ImageScores(NamedTuple):
    """The measures of one image."""

    image: str
    mae: float
    s: float
    f_adaptive: float
    e_adaptive: float
    f_curve: np.ndarray
    e_curve: np.ndarray


class CoSaliencyEvaluator(DatasetEvaluator):
    """S, E, F and MAE as the mean over all images of a set, 0..1.

    E and F are curves over 256 thresholds, averaged over the images: `E_max` and `F_max` are
    their highest values, `E_mean` and `F_mean` their means; `E_adaptive` and `F_adaptive` take
    twice a map's mean as its threshold. An image that occurs twice counts once.

    Outputs are dicts with `sem_seg` [1, H, W] of 0..1, or with `referring` (the union of the masks
    of the one sentence); for an input that is a group (`images`), a list of them. Maps are rounded
    to 256 values and resized to the mask.

    Args:
        dataset_name: a registered data set whose records have `saliency_file_name`.
        distributed: gather from all processes.
        result_name: the key of the results.
    """

    protocol = "mean over all images, at the masks' own size, scores 0 to 1"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "cosaliency"
    ) -> None:
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._scores: list[ImageScores] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[Any]) -> None:
        """Measure the images of a batch.

        Raises:
            ValueError: if answers are missing, or a mask cannot be read.
        """
        for _, image, answer in images_of_batch(inputs, outputs):
            record = self._records[image["image_id"]]
            mask = read_saliency_mask(record["saliency_file_name"])
            self._scores.append(image_scores(record["image_id"], _grey(record, answer), mask))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores; None on all but the first process."""
        found = gather_lists(self._scores, self._distributed)
        if found is None:
            return None
        unique = {one.image: one for one in reversed(found)}
        return OrderedDict({self._result_name: set_scores([unique[key] for key in sorted(unique)])})


def image_scores(image: str, grey: np.ndarray, mask: np.ndarray) -> ImageScores:
    """The measures of one image.

    Args:
        image: its id.
        grey: uint8 [h, w]; resized to the mask if it is of another size.
        mask: bool [H, W].
    """
    if grey.shape != mask.shape:
        grey = cv2.resize(grey, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    values = stretched(grey)
    f, e = f_measure(values, mask), enhanced_alignment(values, mask)
    return ImageScores(
        image,
        mean_absolute_error(values, mask),
        structure(values, mask),
        f.adaptive,
        e.adaptive,
        f.at_levels,
        e.at_levels,
    )


def set_scores(images: list[ImageScores]) -> dict[str, float]:
    """The means over images that always come in the same order; NaN without any."""
    if not images:
        names = ("S", "E_max", "E_mean", "E_adaptive", "F_max", "F_mean", "F_adaptive", "MAE")
        return {**dict.fromkeys(names, float("nan")), "images": 0}
    e_curve = np.mean([one.e_curve for one in images], axis=0)
    f_curve = np.mean([one.f_curve for one in images], axis=0)
    return {
        "S": mean(one.s for one in images),
        "E_max": float(e_curve.max()),
        "E_mean": float(e_curve.mean()),
        "E_adaptive": mean(one.e_adaptive for one in images),
        "F_max": float(f_curve.max()),
        "F_mean": float(f_curve.mean()),
        "F_adaptive": mean(one.f_adaptive for one in images),
        "MAE": mean(one.mae for one in images),
        "images": len(images),
    }


def _grey(record: dict[str, Any], answer: dict[str, Any]) -> np.ndarray:
    """An answer as a grey map, uint8."""
    if "sem_seg" in answer:
        values = np.nan_to_num(answered_map(answer))
        return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    (only,) = answer["referring"]
    found = answer_of(only, record["file_name"], record["height"], record["width"])
    if not isinstance(found, np.ndarray):
        found = mask_util.decode(found)
    return found.astype(np.uint8) * np.uint8(255)
