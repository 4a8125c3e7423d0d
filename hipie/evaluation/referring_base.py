"""Base class of the evaluators of referring expressions."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from typing import Any

from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from hipie.evaluation.distributed import gather_lists
from hipie.evaluation.metrics.expression_iou import (
    MaskOverlap,
    mask_overlap,
    match_expressions,
    resized_mask_overlap,
)


class ExpressionEvaluator(DatasetEvaluator):
    """Count mask overlaps expression by expression; subclasses compute the scores.

    Outputs are dicts with `referring`: for every expression of the input an `Instances` with
    `pred_masks` [n, H, W], or with Detectron2's `pred_masks_rle`, a list of n RLEs (n = 0: an empty
    mask; more than one: their union). RLEs are compared without decoding, which is much faster.

    Args:
        dataset_name: a registered data set whose records have `expressions`.
        distributed: gather the counts of all processes.
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
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
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
        self._counts: list[tuple[Any, MaskOverlap, MaskOverlap | None]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: naming the image, if the number of predictions is not that of its
                expressions, or masks are of another size.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records[item["image_id"]]
            matches = match_expressions(record, output["referring"])
            for (expression, prediction, target), instances in zip(
                matches, output["referring"], strict=True
            ):
                overlap = mask_overlap(prediction, target)
                resized = None
                if self._resized_to:
                    resized = resized_mask_overlap(prediction, target, self._resized_to)
                attributes = self._expression_attributes(record, expression, instances)
                self._counts.append((attributes, overlap, resized))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        scores = self._mask_scores([(attributes, overlap) for attributes, overlap, _ in counts])
        if self._resized_to:
            resized = self._mask_scores(
                [(attributes, overlap) for attributes, _, overlap in counts if overlap is not None]
            )
            scores.update({f"{name}@{self._resized_to}": v for name, v in resized.items()})
        scores.update(self._attribute_scores([attributes for attributes, *_ in counts]))
        scores["expressions"] = len(counts)
        return OrderedDict({self._result_name: scores})

    @abstractmethod
    def _expression_attributes(
        self, record: dict[str, Any], expression: dict[str, Any], prediction: Instances
    ) -> Any:
        """Return what the scores need of an expression besides its mask overlap."""

    @abstractmethod
    def _mask_scores(self, counts: list[tuple[Any, MaskOverlap]]) -> dict[str, float]:
        """Compute the scores of all expressions, independently of their order."""

    def _attribute_scores(self, attributes: list[Any]) -> dict[str, float]:
        """Compute scores that do not depend on masks; none by default."""
        return {}
