"""Evaluator of group-wise referring segmentation: GRD."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.io.rle import RLE
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_lists
from hipie.evaluation.group_predictions import pair_images_with_outputs, predicted_map
from hipie.evaluation.metrics.averages import nanmean, percent
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
        self._records: dict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
        for record in DatasetCatalog.get(dataset_name):
            self._records[record["image_id"]][record["group_id"]] = record
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the pairs counted so far."""
        self._counts: list[PairCounts] = []

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
                self._counts.append(
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
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        return OrderedDict({self._result_name: group_scores(counts)})

    def _record(self, group: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
        """Return an image's record in a group; an image of a single group needs no `group_id`."""
        records = self._records[image["image_id"]]
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


def group_scores(counts: Sequence[PairCounts]) -> dict[str, float]:
    """Compute all scores of `GroupReferringEvaluator`.

    Args:
        counts: in any order; a repeated pair counts once.
    """
    unique = {pair[:3]: pair for pair in reversed(counts)}
    scores = _pair_scores(list(unique.values()))
    pairs_by_group: dict[int, list[PairCounts]] = defaultdict(list)
    for pair in unique.values():
        pairs_by_group[pair.group].append(pair)
    scores_by_group = [_pair_scores(pairs) for pairs in pairs_by_group.values()]
    for name in list(scores):
        scores[f"macro-{name}"] = nanmean(group[name] for group in scores_by_group)
    return {**scores, "pairs": len(unique), "groups": len(pairs_by_group)}


def _pair_scores(counts: list[PairCounts]) -> dict[str, float]:
    positive = [pair for pair in counts if pair.has_target]
    negative = [pair for pair in counts if not pair.has_target]
    ious = [pair.intersection / pair.union if pair.union else 0.0 for pair in positive]
    intersection = sum(pair.intersection for pair in positive)
    union = sum(pair.union for pair in positive)
    rejected = [float(not pair.has_prediction) for pair in negative]
    return {
        "mIoU-positive": percent(ious),
        "oIoU-positive": 100.0 * intersection / union if union else float("nan"),
        "N-acc": percent(rejected),
        "T-acc": percent(float(pair.has_prediction) for pair in positive),
        "mIoU": percent([*ious, *rejected]),
    }
