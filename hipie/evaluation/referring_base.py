"""Base class of the evaluators of referring expressions."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from numpy.typing import NDArray

from hipie.data.io.rle import RLE
from hipie.data.record_list import read_records
from hipie.evaluation.distributed import sum_integers
from hipie.evaluation.metrics.expression_iou import (
    OverlapCounts,
    mask_overlap,
    match_expressions,
    resized_mask_overlap,
)

ALL = "all"
"""Group of all expressions."""


class ExpressionEvaluator(DatasetEvaluator):
    """Sum mask overlaps by groups of expressions; subclasses compute the scores.

    Outputs are dicts with `referring`: for every expression of the input an `Instances` with
    `pred_masks` [n, H, W], or with Detectron2's `pred_masks_rle`, a list of n RLEs (n = 0: an empty
    mask; more than one: their union). RLEs are compared without decoding, which is much faster.

    Args:
        dataset_name: a registered data set whose records have `expressions`.
        distributed: sum the counts of all processes.
        result_name: key of the results.
        resized_to: compute all scores a second time (`...@480`) after both masks are resized to a
            square of this side in pixels, as for most published numbers; None = only at the
            images' own size.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool,
        result_name: str,
        resized_to: int | None,
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        self._distributed = distributed
        self._result_name = result_name
        self._resized_to = resized_to
        self.reset()

    @property
    def protocol(self) -> str:
        """One-line description of the evaluation protocol."""
        side = self._resized_to
        resized = f"; @{side}: both masks resized to {side} x {side}" if side else ""
        return f"every expression; masks at the images' own size{resized}"

    def reset(self) -> None:
        """Discard the expressions counted so far."""
        self._counts: dict[str, OverlapCounts] = defaultdict(OverlapCounts)
        self._resized_counts: dict[str, OverlapCounts] = defaultdict(OverlapCounts)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: naming the image, if the number of predictions is not that of its
                expressions, or masks are of another size.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records.of_image(item["image_id"])
            matches = match_expressions(record, output["referring"])
            for (expression, prediction, target), instances in zip(
                matches, output["referring"], strict=True
            ):
                prediction = self._accepted(expression, prediction, target, instances)
                groups = [ALL, *self._groups(expression)]
                overlap = mask_overlap(prediction, target)
                for group in groups:
                    self._counts[group].add(overlap)
                if self._resized_to:
                    overlap = resized_mask_overlap(prediction, target, self._resized_to)
                    for group in groups:
                        self._resized_counts[group].add(overlap)
                self._count_boxes(record, expression, instances)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        counts = self._gather(self._counts)
        resized_counts = self._gather(self._resized_counts)
        box_scores = self._box_scores()
        if counts is None or resized_counts is None:
            return None
        scores = self._mask_scores(counts)
        if self._resized_to:
            resized = self._mask_scores(resized_counts)
            scores.update({f"{name}@{self._resized_to}": v for name, v in resized.items()})
        scores.update(box_scores)
        scores["expressions"] = counts[ALL].expressions
        return OrderedDict({self._result_name: scores})

    def _gather(self, counts: Mapping[str, OverlapCounts]) -> dict[str, OverlapCounts] | None:
        """Sum counts over the processes; groups without expressions have counts of 0."""
        integers = {group: group_counts.integers() for group, group_counts in counts.items()}
        sums = sum_integers(integers, self._distributed)
        if sums is None:
            return None
        return defaultdict(
            OverlapCounts, {group: OverlapCounts(values) for group, values in sums.items()}
        )

    def _accepted(
        self,
        expression: dict[str, Any],
        prediction: RLE | NDArray[Any],
        target: RLE | NDArray[Any],
        instances: Instances,
    ) -> RLE | NDArray[Any]:
        """Return the mask that counts: by default the prediction."""
        return prediction

    @abstractmethod
    def _groups(self, expression: dict[str, Any]) -> Iterable[str]:
        """Return the groups that an expression is counted in, besides `ALL`."""

    @abstractmethod
    def _mask_scores(self, counts: Mapping[str, OverlapCounts]) -> dict[str, float]:
        """Compute the scores from the counts of every group."""

    def _count_boxes(
        self, record: dict[str, Any], expression: dict[str, Any], prediction: Instances
    ) -> None:
        """Count what scores besides those of masks need; nothing by default."""

    def _box_scores(self) -> dict[str, float]:
        """Compute scores that do not depend on masks; called by all processes."""
        return {}
