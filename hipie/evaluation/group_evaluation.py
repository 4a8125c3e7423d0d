"""Group-wise referring segmentation: one sentence, many images, not all of which show it."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.data.io.rle import RLE
from hipie.evaluation.distributed import gather_lists
from hipie.evaluation.group_predictions import answered_map, images_of_batch
from hipie.evaluation.metrics.averages import mean_of_known, percent
from hipie.evaluation.metrics.expression_iou import (
    expressions_with_answers,
    overlap_with,
    target_runs,
)


class ImageCount(NamedTuple):
    """One image asked one sentence; equal keys are one and the same question."""

    group: int
    image: int
    expression: int
    both: int
    either: int
    answered: bool
    meant: bool


class GroupReferringEvaluator(DatasetEvaluator):
    """Scores over (image, expression) pairs, in percent; a pair that occurs twice counts once.

    Over positive pairs: `mIoU-positive`, the mean IoU, and `oIoU-positive`, the sum of
    intersections over that of unions; a positive image that is rejected has IoU 0. `N-acc` is the
    share of negative pairs with an empty mask, `T-acc` that of positive pairs with another.
    `mIoU` is over all pairs, where a negative one counts 1 if its mask is empty and else 0
    (gRefCOCO's gIoU). `macro-...` is the mean of the same over groups that have such pairs.

    Outputs are either dicts with `referring` (as for `ReferringEvaluator`), or, for an input that
    is a group (`images`, `sent_id`), a list with a dict for each image: `sem_seg` [1, H, W] of
    0..1 (a pixel from 0.5 on belongs to the mask) and `positive`. Groups may repeat images to be
    full.

    Args:
        dataset_name: a registered data set of records with `group_id` and `expressions` with
            `sent_id`.
        distributed: gather from all processes.
        result_name: the key of the results.
    """

    protocol = "expressions on each image they are asked of, at the images' own size"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "group"
    ) -> None:
        self._records: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        for record in DatasetCatalog.get(dataset_name):
            self._records[record["image_id"]][record["group_id"]] = record
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts: list[ImageCount] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[Any]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: if answers are missing, or of another size than the image, or to an
                expression that the image is not asked.
        """
        for group, image, answer in images_of_batch(inputs, outputs):
            record = self._record(group, image)
            for expression, found, target in self._pairs(group, record, answer):
                overlap = overlap_with(found, target)
                self._counts.append(
                    ImageCount(
                        record["group_id"],
                        record["image_id"],
                        expression["sent_id"],
                        overlap.both,
                        overlap.either,
                        overlap.answered > 0,
                        bool(expression["targets"]),
                    )
                )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        return OrderedDict({self._result_name: group_scores(counts)})

    def _record(self, group: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
        """The image as a member of the group; one that is in no other needs no group named."""
        memberships = self._records[image["image_id"]]
        if "group_id" in group or len(memberships) != 1:
            return memberships[group["group_id"]]
        return next(iter(memberships.values()))

    def _pairs(
        self, group: dict[str, Any], record: dict[str, Any], answer: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], RLE | np.ndarray, RLE]]:
        if "referring" in answer:
            yield from expressions_with_answers(record, answer["referring"])
            return
        asked = [one for one in record["expressions"] if one["sent_id"] == group["sent_id"]]
        if not asked:
            raise ValueError(
                f"{record['file_name']}: group {record['group_id']} does not ask it the expression "
                f"{group['sent_id']}"
            )
        mask = answered_map(answer) >= 0.5
        if mask.shape != (record["height"], record["width"]):
            raise ValueError(
                f"{record['file_name']}: an answer of {mask.shape} pixels for an image "
                f"of {(record['height'], record['width'])}"
            )
        yield asked[0], mask, target_runs({**record, "expressions": asked[:1]})[0]


def group_scores(counts: Sequence[ImageCount]) -> dict[str, float]:
    """All scores of `GroupReferringEvaluator`.

    Args:
        counts: in any order, with repetitions.
    """
    unique = {one[:3]: one for one in reversed(counts)}
    scores = _scores(list(unique.values()))
    by_group: dict[int, list[ImageCount]] = defaultdict(list)
    for one in unique.values():
        by_group[one.group].append(one)
    each = [_scores(found) for found in by_group.values()]
    for name in list(scores):
        scores[f"macro-{name}"] = mean_of_known(one[name] for one in each)
    return {**scores, "pairs": len(unique), "groups": len(by_group)}


def _scores(counts: list[ImageCount]) -> dict[str, float]:
    positive = [one for one in counts if one.meant]
    negative = [one for one in counts if not one.meant]
    ious = [one.both / one.either if one.either else 0.0 for one in positive]
    both, either = sum(one.both for one in positive), sum(one.either for one in positive)
    rejected = [float(not one.answered) for one in negative]
    return {
        "mIoU-positive": percent(ious),
        "oIoU-positive": 100.0 * both / either if either else float("nan"),
        "N-acc": percent(rejected),
        "T-acc": percent(float(one.answered) for one in positive),
        "mIoU": percent([*ious, *rejected]),
    }
