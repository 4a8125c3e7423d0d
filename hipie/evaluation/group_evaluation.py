"""Evaluator of group-wise referring segmentation: GRD."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.io.rle import RLE
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_arrays
from hipie.evaluation.group_predictions import pair_images_with_outputs, predicted_map
from hipie.evaluation.metrics.averages import nanmean, percent, ratio
from hipie.evaluation.metrics.expression_iou import mask_overlap, match_expressions, target_rles

MASK_THRESHOLD = 0.5


class PairCounts(NamedTuple):
    """Pixel counts of one (image, expression) pair.

    Attributes:
        group, image, expression: ids; the first three identify the pair.
        intersection, union: in pixels.
        has_prediction: whether the predicted mask is not empty.
        has_target: whether the pair is positive.
    """

    group: int
    image: int
    expression: int
    intersection: int
    union: int
    has_prediction: bool
    has_target: bool


class GroupReferringEvaluator(DatasetEvaluator):
    """Scores over (image, expression) pairs in percent; a repeated pair counts once.

    Over positive pairs: `mIoU-positive`, the mean IoU, and `oIoU-positive`, the sum of
    intersections over that of unions; a rejected positive image has IoU 0. `N-acc` is the fraction
    of negative pairs with an empty mask, `T-acc` that of positive pairs with a non-empty mask.
    `mIoU` is over all pairs, where a negative one counts 1 if its mask is empty, else 0 (gIoU of
    gRefCOCO). `macro-...` is the mean of each score over the groups that have such pairs.

    Outputs are either dicts with `referring` (as for `ReferringEvaluator`), or, for an input that
    is a group (`images`, `sent_id`), a list with a dict an image: `sem_seg` [1, H, W] in 0..1
    (pixels of at least 0.5 belong to the mask) and `positive`. Groups may repeat images as padding.

    Args:
        dataset_name: a registered data set of records with `group_id` and `expressions` with
            `sent_id`.
        distributed: gather the counts of all processes.
        result_name: key of the results.
    """

    protocol = "every (image, expression) pair of a group, at the images' own size"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "group"
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the pairs counted so far."""
        self._counts = array("q")  # `PairCounts` one after another, 56 bytes each

    def process(self, inputs: list[dict[str, Any]], outputs: list[Any]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: if predictions are missing, or of another size than the image, or for an
                expression that the image's group does not have.
        """
        for group, image, output in pair_images_with_outputs(inputs, outputs):
            record = self._record(group, image)
            for expression, prediction, target in self._match(group, record, output):
                overlap = mask_overlap(prediction, target)
                self._counts.extend(
                    PairCounts(
                        record["group_id"],
                        record["image_id"],
                        expression["sent_id"],
                        overlap.intersection,
                        overlap.union,
                        overlap.predicted > 0,
                        bool(expression["targets"]),
                    )
                )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        table = np.array(self._counts, dtype=np.int64).reshape(-1, len(PairCounts._fields))
        gathered = gather_arrays([table], self._distributed)
        if gathered is None:
            return None
        return OrderedDict({self._result_name: group_scores(gathered[0])})

    def _record(self, group: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
        """Return an image's record in a group; an image of a single group needs no `group_id`."""
        entries = self._records.select("image_id", image["image_id"])
        records = {record["group_id"]: record for _, record in entries}
        if "group_id" in group or len(records) != 1:
            return records[group["group_id"]]
        return next(iter(records.values()))

    def _match(
        self, group: dict[str, Any], record: dict[str, Any], output: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], RLE | NDArray[Any], RLE]]:
        """Yield expression, predicted mask and target mask of an image's output."""
        if "referring" in output:
            yield from match_expressions(record, output["referring"])
            return
        expressions = [e for e in record["expressions"] if e["sent_id"] == group["sent_id"]]
        if not expressions:
            raise InputError(
                f"{record['file_name']}: group {record['group_id']} has no expression "
                f"{group['sent_id']} for this image"
            )
        mask: NDArray[Any] = predicted_map(output) >= MASK_THRESHOLD
        if mask.shape != (record["height"], record["width"]):
            raise InputError(
                f"{record['file_name']}: a prediction of {mask.shape} pixels for an image "
                f"of {(record['height'], record['width'])}"
            )
        expression = expressions[0]
        yield expression, mask, target_rles({**record, "expressions": [expression]})[0]


def group_scores(pairs: NDArray[np.int64]) -> dict[str, float]:
    """Compute all scores of `GroupReferringEvaluator`.

    Args:
        pairs: [N, 7] `PairCounts`, in any order; the first of a repeated pair counts.
    """
    pairs = pairs[np.lexsort((pairs[:, 2], pairs[:, 1], pairs[:, 0]))]
    is_new = np.ones(len(pairs), dtype=bool)
    is_new[1:] = (pairs[1:, :3] != pairs[:-1, :3]).any(axis=1)
    pairs = pairs[is_new]
    starts = np.flatnonzero(np.diff(pairs[:, 0])) + 1
    groups = np.split(pairs, starts) if len(pairs) else []
    scores = _pair_scores(pairs)
    scores_by_group = [_pair_scores(group) for group in groups]
    for name in list(scores):
        scores[f"macro-{name}"] = nanmean(group[name] for group in scores_by_group)
    return {**scores, "pairs": len(pairs), "groups": len(groups)}


def _pair_scores(pairs: NDArray[np.int64]) -> dict[str, float]:
    intersections, unions, has_prediction, has_target = pairs[:, 3:].T
    positive = has_target > 0
    ious = np.divide(intersections, np.maximum(unions, 1))[positive]
    rejected = (has_prediction == 0)[~positive]
    return {
        "mIoU-positive": percent(ious),
        "oIoU-positive": ratio(int(intersections[positive].sum()), int(unions[positive].sum())),
        "N-acc": percent(rejected),
        "T-acc": percent(has_prediction[positive] > 0),
        "mIoU": percent(np.concatenate([ious, rejected])),
    }
