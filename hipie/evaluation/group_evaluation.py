"""Evaluator of group-wise referring segmentation: GRD."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from enum import IntFlag
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.io.rle import RLE
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_arrays
from hipie.evaluation.group_predictions import pair_images_with_outputs, predicted_map
from hipie.evaluation.metrics.averages import nanmean, percent, ratio
from hipie.evaluation.metrics.expression_iou import mask_overlap, match_expressions, target_rles
from hipie.evaluation.metrics.pointing import points_at

MASK_THRESHOLD = 0.5
# IoU of which a mask or a box is right, in P@0.5.
PRECISION_THRESHOLD = 0.5
# Fractions of an image are stored in whole numbers of this part.
SHARE_UNIT = 1_000_000


class Hit(IntFlag):
    """What is right in one (image, expression) pair."""

    BOX = 1  # IoU of the bounding boxes of both masks is at least 0.5
    HEATMAPS = 2  # the output has a language heatmap
    VISUAL_HEATMAPS = 4  # the output has visual heatmaps
    LANGUAGE = 8  # maximum of the language heatmap on the target
    FIRST = 16  # maximum of the most reliable visual heatmap on the target
    VISUAL = 32  # maximum of the mean of the visual heatmaps on the target


# Score -> the flag of pairs that have such a heatmap, and of those where it points at the target.
POINTING = {
    "pointing-language": (Hit.HEATMAPS, Hit.LANGUAGE),
    "pointing-first": (Hit.VISUAL_HEATMAPS, Hit.FIRST),
    "pointing-visual": (Hit.VISUAL_HEATMAPS, Hit.VISUAL),
}


class PairCounts(NamedTuple):
    """Pixel counts of one (image, expression) pair.

    Attributes:
        group, image, expression: ids; the first three identify the pair.
        intersection, union: in pixels.
        has_prediction: whether the predicted mask is not empty.
        has_target: whether the pair is positive.
        hits: of `Hit`, of a positive pair.
        target_share: fraction of the image that the target covers, in `SHARE_UNIT`.
    """

    group: int
    image: int
    expression: int
    intersection: int
    union: int
    has_prediction: bool
    has_target: bool
    hits: int
    target_share: int


class GroupReferringEvaluator(DatasetEvaluator):
    """Scores over (image, expression) pairs in percent; a repeated pair counts once.

    Over positive pairs: `mIoU-positive`, the mean IoU, and `oIoU-positive`, the sum of
    intersections over that of unions; a rejected positive image has IoU 0. `P@0.5` is the fraction
    of masks with an IoU of at least 0.5, and `P@0.5-box` that of the masks' bounding boxes, one a
    pair, as in referring expression comprehension. `N-acc` is the fraction
    of negative pairs with an empty mask, `T-acc` that of positive pairs with a non-empty mask.
    `mIoU` is over all pairs, where a negative one counts 1 if its mask is empty, else 0 (gIoU of
    gRefCOCO). `macro-...` is the mean of each score over the groups that have such pairs.

    Outputs are either dicts with `referring` (as for `ReferringEvaluator`), or, for an input that
    is a group (`images`, `sent_id`), a list with a dict an image: `sem_seg` [1, H, W] in 0..1
    (pixels of at least 0.5 belong to the mask) and `positive`. Groups may repeat images as padding.

    Where such a dict has `heatmaps`, with `language` [h, w] and `visual` [K, h, w] (see `GRSer`),
    there are three more scores over positive pairs, the fractions of heatmaps whose maximum is on
    the target: `pointing-language`, `pointing-first` of the first visual heatmap, and
    `pointing-visual` of the mean of all. `pointing-chance` is the mean fraction of an image that
    the target covers. They do not depend on the rejection.

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
        self._counts = array("q")  # `PairCounts` one after another, 72 bytes each

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
                hits, share = _hits(prediction, target, output) if expression["targets"] else (0, 0)
                self._counts.extend(
                    PairCounts(
                        record["group_id"],
                        record["image_id"],
                        expression["sent_id"],
                        overlap.intersection,
                        overlap.union,
                        overlap.predicted > 0,
                        bool(expression["targets"]),
                        hits,
                        share,
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


def _hits(prediction: RLE | NDArray[Any], target: RLE, output: dict[str, Any]) -> tuple[int, int]:
    """`Hit` of a positive pair, and the share of the image that its target covers."""
    height, width = target["size"]
    hits = Hit(0)
    if _box_iou(_bounding_box(prediction), _bounding_box(target)) >= PRECISION_THRESHOLD:
        hits |= Hit.BOX
    share = round(int(mask_util.area(target)) / (height * width) * SHARE_UNIT)
    heatmaps = output.get("heatmaps")
    if heatmaps is None:
        return int(hits), share
    mask = mask_util.decode(target)
    language, visual = (np.asarray(heatmaps[name].cpu()) for name in ("language", "visual"))
    hits |= Hit.HEATMAPS | (Hit.LANGUAGE if points_at(language, mask) else Hit(0))
    if len(visual):
        hits |= Hit.VISUAL_HEATMAPS
        hits |= Hit.FIRST if points_at(visual[0], mask) else Hit(0)
        hits |= Hit.VISUAL if points_at(visual.mean(0), mask) else Hit(0)
    return int(hits), share


def _bounding_box(mask: RLE | NDArray[Any]) -> NDArray[Any]:
    """Box (x, y, width, height) around a mask; all 0 for an empty one."""
    if isinstance(mask, np.ndarray):
        mask = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return mask_util.toBbox(mask)


def _box_iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    """IoU of two boxes (x, y, width, height)."""
    return float(mask_util.iou([a], [b], [0])[0, 0]) if a[2:].all() and b[2:].all() else 0.0


def group_scores(pairs: NDArray[np.int64]) -> dict[str, float]:
    """Compute all scores of `GroupReferringEvaluator`.

    Args:
        pairs: [N, 9] `PairCounts`, in any order; the first of a repeated pair counts.
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
        scores[f"macro-{name}"] = nanmean(group[name] for group in scores_by_group if name in group)
    return {**scores, "pairs": len(pairs), "groups": len(groups)}


def _pair_scores(pairs: NDArray[np.int64]) -> dict[str, float]:
    intersections, unions, has_prediction, has_target, hits, shares = pairs[:, 3:].T
    positive = has_target > 0
    ious = np.divide(intersections, np.maximum(unions, 1))[positive]
    rejected = (has_prediction == 0)[~positive]
    hits, shares = hits[positive], shares[positive]
    scores = {
        "mIoU-positive": percent(ious),
        "oIoU-positive": ratio(int(intersections[positive].sum()), int(unions[positive].sum())),
        "N-acc": percent(rejected),
        "T-acc": percent(has_prediction[positive] > 0),
        "mIoU": percent(np.concatenate([ious, rejected])),
        "P@0.5": percent(ious >= PRECISION_THRESHOLD),
        "P@0.5-box": percent(hits & Hit.BOX > 0),
    }
    for name, (available, hit) in POINTING.items():
        having = hits & available > 0
        if having.any():
            scores[name] = percent(hits[having] & hit > 0)
    if (hits & Hit.HEATMAPS).any():
        scores["pointing-chance"] = percent(shares[hits & Hit.HEATMAPS > 0] / SHARE_UNIT)
    return scores
