"""Evaluator of co-saliency: CoCA, CoSal2015 and CoSOD3k."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.broken_images import reading_rules_of
from hipie.data.image_io import read_saliency_mask
from hipie.data.io.reading_rules import read_by
from hipie.data.record_list import read_records
from hipie.evaluation.distributed import gather_arrays
from hipie.evaluation.group_predictions import pair_images_with_outputs, predicted_map
from hipie.evaluation.metrics.averages import mean
from hipie.evaluation.metrics.expression_iou import predicted_mask
from hipie.evaluation.metrics.saliency import (
    e_measure,
    f_measure,
    mean_absolute_error,
    normalize_map,
    s_measure,
)

THRESHOLDS = 256


class ImageMeasures(NamedTuple):
    """Saliency measures of one image.

    Attributes:
        mae, s: mean absolute error and S-measure.
        f_adaptive, e_adaptive: F- and E-measure at the adaptive threshold.
        f_curve, e_curve: [256] at each threshold.
    """

    mae: float
    s: float
    f_adaptive: float
    e_adaptive: float
    f_curve: NDArray[Any]
    e_curve: NDArray[Any]


class CoSaliencyEvaluator(DatasetEvaluator):
    """S, E, F and MAE as means over all images of a data set, 0..1.

    E and F are curves over 256 thresholds, averaged over the images: `E_max` and `F_max` are
    their maxima, `E_mean` and `F_mean` their means; `E_adaptive` and `F_adaptive` use twice a map's
    mean as its threshold. A repeated image counts once.

    Outputs are dicts with `sem_seg` [1, H, W] in 0..1, or with `referring` (the union of the masks
    of the single expression); for an input that is a group (`images`), a list of them. Maps are
    rounded to 256 values and resized to the ground truth.

    Args:
        dataset_name: a registered data set whose records have `saliency_file_name`.
        distributed: gather the measures of all processes.
        result_name: key of the results.
    """

    protocol = "mean over all images, at the masks' own size, scores 0 to 1"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "cosaliency"
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        self._rules = reading_rules_of(dataset_name)
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the images measured so far."""
        self._positions: list[int] = []  # in the data set
        self._measures: list[NDArray[np.float64]] = []  # `ImageMeasures` as one row each

    def process(self, inputs: list[dict[str, Any]], outputs: list[Any]) -> None:
        """Measure the images of a batch.

        Raises:
            ValueError: if predictions are missing, or a mask cannot be read.
        """
        for _, image, output in pair_images_with_outputs(inputs, outputs):
            position, record = self._records.find("image_id", image["image_id"])
            grey = _to_grey_map(record, output)
            with read_by(self._rules):
                mask = read_saliency_mask(record["saliency_file_name"])
            self._positions.append(position)
            self._measures.append(np.hstack(measure_image(grey, mask)))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores; None on all but the first process."""
        table = np.array(self._measures, dtype=np.float64).reshape(-1, 4 + 2 * THRESHOLDS)
        positions = np.array(self._positions, dtype=np.int64)
        gathered = gather_arrays([positions, table], self._distributed)
        if gathered is None:
            return None
        positions, table = gathered
        _, first = np.unique(positions, return_index=True)
        images = [ImageMeasures(*row[:4].tolist(), *np.split(row[4:], 2)) for row in table[first]]
        return OrderedDict({self._result_name: cosaliency_scores(images)})


def measure_image(grey: NDArray[Any], mask: NDArray[Any]) -> ImageMeasures:
    """Compute the measures of one image.

    Args:
        grey: uint8 [h, w]; resized to the mask if it is of another size.
        mask: bool [H, W].
    """
    if grey.shape != mask.shape:
        grey = cv2.resize(grey, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    values = normalize_map(grey)
    f, e = f_measure(values, mask), e_measure(values, mask)
    return ImageMeasures(
        mean_absolute_error(values, mask),
        s_measure(values, mask),
        f.adaptive,
        e.adaptive,
        f.at_levels,
        e.at_levels,
    )


def cosaliency_scores(images: list[ImageMeasures]) -> dict[str, float]:
    """Average the measures of images, which come in a fixed order; NaN without images."""
    if not images:
        names = ("S", "E_max", "E_mean", "E_adaptive", "F_max", "F_mean", "F_adaptive", "MAE")
        return {**dict.fromkeys(names, float("nan")), "images": 0}
    e_curve = np.mean([image.e_curve for image in images], axis=0)
    f_curve = np.mean([image.f_curve for image in images], axis=0)
    return {
        "S": mean(image.s for image in images),
        "E_max": float(e_curve.max()),
        "E_mean": float(e_curve.mean()),
        "E_adaptive": mean(image.e_adaptive for image in images),
        "F_max": float(f_curve.max()),
        "F_mean": float(f_curve.mean()),
        "F_adaptive": mean(image.f_adaptive for image in images),
        "MAE": mean(image.mae for image in images),
        "images": len(images),
    }


def _to_grey_map(record: dict[str, Any], output: dict[str, Any]) -> NDArray[Any]:
    """Convert an output to a grey map, uint8 [H, W]."""
    if "sem_seg" in output:
        values = np.nan_to_num(predicted_map(output))
        grey: NDArray[Any] = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
        return grey
    (instances,) = output["referring"]
    mask = predicted_mask(instances, record["file_name"], record["height"], record["width"])
    if not isinstance(mask, np.ndarray):
        mask = mask_util.decode(mask)
    return np.asarray(mask.astype(np.uint8) * np.uint8(255))
